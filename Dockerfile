# One image, one program: `bitnet`. Which command it runs is up to the caller, e.g. `bitnet worker`.

FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY . .
RUN cargo build --release --locked --package pipeline --bin bitnet

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --create-home --home-dir /var/lib/bitnet bitnet
COPY --from=build /build/target/release/bitnet /usr/local/bin/bitnet
USER bitnet
WORKDIR /var/lib/bitnet
# A worker commits what it has and leaves its group; docker waits 10 s by default, so give it more.
STOPSIGNAL SIGTERM
ENTRYPOINT ["bitnet"]
