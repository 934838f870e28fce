#!/bin/sh
# Runs a command for a test process, and outlives neither the command nor the test.
#
#   supervise.sh COMMAND [ARGUMENT…]
#
# Each line on standard input is a signal name, sent to the command. When standard input ends, because the
# test closed it or died however suddenly, the command gets TERM and 10 seconds later KILL. The exit status
# is the command's, 128 + N after signal N.
trap '' INT HUP # Ctrl-C stops the test; the end of standard input then stops the command.
exec 3<&0
"$@" </dev/null 3<&- &
command=$!
{
    while read -r signal; do
        kill -s "$signal" "$command"
    done
    kill -s CONT "$command"
    kill -s TERM "$command"
    tries=0
    while [ "$tries" -lt 100 ] && kill -0 "$command"; do
        sleep 0.1
        tries=$((tries + 1))
    done
    kill -s KILL "$command"
} <&3 2>/dev/null &
watcher=$!
exec 3<&-
wait "$command"
status=$?
kill "$watcher" 2>/dev/null
exit "$status"
