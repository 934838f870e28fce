//! A network between a worker and its object store that can be slowed down or cut (toxiproxy).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::{Process, free_port, installed, run_folder};

const START_MAX: Duration = Duration::from_secs(30);

/// One TCP link from a port of its own to a server.
#[derive(Debug)]
pub struct SlowLink {
    _process: Process,
    control_port: u16,
    port: u16,
}

impl SlowLink {
    /// Opens a link to `server_port`, neither slow nor cut.
    pub fn to(server_port: u16) -> Result<SlowLink> {
        let (control_port, port) = (free_port()?, free_port()?);
        let mut command = Command::new(installed()?.join("toxiproxy"));
        command.args(["-host", "127.0.0.1", "-port", &control_port.to_string()]);
        let mut process = Process::start("toxiproxy", &command, &run_folder("slow-link")?)?;
        process.wait_for_port(control_port, START_MAX)?;
        let link = SlowLink {
            _process: process,
            control_port,
            port,
        };
        link.control(
            "POST",
            "/proxies",
            &json!({
                "name": "link",
                "listen": format!("127.0.0.1:{port}"),
                "upstream": format!("127.0.0.1:{server_port}"),
                "enabled": true,
            }),
        )?;
        Ok(link)
    }

    /// Where clients connect.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Holds every answer back for `delay`, so that what was written is seen in the store well before the
    /// writer hears of it.
    pub fn delay_answers(&self, delay: Duration) -> Result<()> {
        self.control(
            "POST",
            "/proxies/link/toxics",
            &json!({
                "name": "delay",
                "type": "latency",
                "stream": "downstream",
                "attributes": { "latency": delay.as_millis() as u64 },
            }),
        )
    }

    /// Closes every connection and refuses new ones, or accepts them again.
    pub fn set_cut(&self, cut: bool) -> Result<()> {
        self.control("POST", "/proxies/link", &json!({ "enabled": !cut }))
    }

    fn control(&self, method: &str, path: &str, body: &Value) -> Result<()> {
        let body = body.to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", self.control_port))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        match answer.split(' ').nth(1) {
            Some(status) if status.starts_with('2') => Ok(()),
            _ => bail!("{method} {path} {body}: {answer}"),
        }
    }
}
