//! A client for the admin API: one blocking `GET` at a time, nothing kept.
//!
//! Requests are HTTP/1.0, so the answer is everything up to the end of the connection; `Content-Length` says whether
//! that end came too early.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde_json::Value;

/// How long connecting, and every pause of an answer, may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// More than any answer of the admin API at the sizes Weir is made for.
const LARGEST: u64 = 256 << 20;

/// Where a running Weir is asked.
#[derive(Clone, Debug)]
pub(super) struct Admin {
    address: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Nobody there.
    #[error("cannot reach Weir's admin address {address}: {source}; is it running, and is --admin right?")]
    Unreachable {
        /// The address asked.
        address: String,
        /// What went wrong.
        source: io::Error,
    },
    /// Somebody there, but not Weir's admin API.
    #[error("{address} does not answer like Weir's admin API ({problem}); is --admin right?")]
    Foreign {
        /// The address asked.
        address: String,
        /// What was odd.
        problem: String,
    },
    /// What was asked for does not exist.
    #[error("{address} knows nothing at {path}: {message}")]
    NotFound {
        /// The address asked.
        address: String,
        /// The path asked for.
        path: String,
        /// What it says.
        message: String,
    },
    /// It refused or failed.
    #[error("{address} answered {path} with status {status}: {message}")]
    Refused {
        /// The address asked.
        address: String,
        /// The path asked for.
        path: String,
        /// The status.
        status: u16,
        /// What it says.
        message: String,
    },
}

impl Admin {
    /// At `address`: `host:port`, or `:port` for this machine.
    pub fn at(address: &str) -> Self {
        let address = if address.starts_with(':') { format!("127.0.0.1{address}") } else { address.to_owned() };
        Self { address }
    }

    /// What is at `path` (absolute, with query), parsed as JSON.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub fn json(&self, path: &str) -> Result<Value, AdminError> {
        let (status, body) = self.get(path)?;
        let message = || -> String { String::from_utf8_lossy(&body).trim().chars().take(300).collect() };
        match status {
            200..=299 => serde_json::from_slice(&body).map_err(|error| self.foreign(format!("no JSON: {error}"))),
            404 => Err(AdminError::NotFound {
                address: self.address.clone(),
                path: path.to_owned(),
                message: explain(&body).unwrap_or_else(message),
            }),
            _ => Err(AdminError::Refused {
                address: self.address.clone(),
                path: path.to_owned(),
                status,
                message: explain(&body).unwrap_or_else(message),
            }),
        }
    }

    fn get(&self, path: &str) -> Result<(u16, Vec<u8>), AdminError> {
        let unreachable = |source| AdminError::Unreachable { address: self.address.clone(), source };
        let mut stream = connect(&self.address).map_err(unreachable)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(unreachable)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(unreachable)?;
        let request = format!(
            "GET {path} HTTP/1.0\r\nHost: {}\r\nAccept: application/json\r\nUser-Agent: weir/{}\r\n\r\n",
            self.address,
            env!("CARGO_PKG_VERSION")
        );
        stream.write_all(request.as_bytes()).map_err(unreachable)?;
        let mut answer = Vec::new();
        stream.take(LARGEST).read_to_end(&mut answer).map_err(unreachable)?;
        parse(&answer).map_err(|problem| self.foreign(problem))
    }

    fn foreign(&self, problem: String) -> AdminError {
        AdminError::Foreign { address: self.address.clone(), problem }
    }
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no address");
    for candidate in address.to_socket_addrs()?.collect::<Vec<SocketAddr>>() {
        match TcpStream::connect_timeout(&candidate, PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The text of `{"error": "…"}`, as the admin API words its refusals.
fn explain(body: &[u8]) -> Option<String> {
    serde_json::from_slice::<Value>(body).ok()?.get("error")?.as_str().map(str::to_owned)
}

fn parse(answer: &[u8]) -> Result<(u16, Vec<u8>), String> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let start = match response.parse(answer) {
        Ok(httparse::Status::Complete(start)) => start,
        Ok(httparse::Status::Partial) if answer.is_empty() => return Err("it closed without a word".to_owned()),
        Ok(httparse::Status::Partial) => return Err("the answer broke off".to_owned()),
        Err(error) => return Err(format!("no HTTP: {error}")),
    };
    let status = response.code.unwrap_or(0);
    let body = &answer[start..];
    let length = response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse::<usize>().ok());
    match length {
        Some(length) if body.len() < length => Err(format!("{} of {length} bytes", body.len())),
        Some(length) => Ok((status, body[..length].to_vec())),
        None => Ok((status, body.to_vec())),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn answering(answer: &'static str) -> Admin {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        });
        Admin::at(&address)
    }

    #[test]
    fn an_answer_is_read_to_its_length_or_to_the_end() {
        let admin = answering("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n{\"a\":1}junk");
        assert_eq!(admin.json("/").unwrap()["a"], 1);
        let admin = answering("HTTP/1.1 200 OK\r\n\r\n[1,2]");
        assert_eq!(admin.json("/").unwrap()[1], 2);
    }

    #[test]
    fn every_odd_answer_has_its_own_words() {
        let text = |admin: Admin| admin.json("/x").unwrap_err().to_string();
        assert!(text(answering("SSH-2.0-OpenSSH\r\n")).contains("no HTTP"));
        assert!(text(answering("")).contains("closed without a word"));
        assert!(text(answering("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}")).contains("2 of 9 bytes"));
        assert!(text(answering("HTTP/1.1 200 OK\r\n\r\n<html>")).contains("no JSON"));
        let missing = answering("HTTP/1.1 404 Not Found\r\n\r\n{\"error\":\"no Service a/b\"}").json("/x").unwrap_err();
        assert!(matches!(&missing, AdminError::NotFound { message, .. } if message == "no Service a/b"));
    }

    #[test]
    fn nobody_at_the_address_is_said_with_the_address() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let error = Admin::at(&free).json("/").unwrap_err();
        assert!(matches!(error, AdminError::Unreachable { .. }));
        assert!(error.to_string().contains(&free));
    }
}
