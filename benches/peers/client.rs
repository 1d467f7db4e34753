//! A client that makes one exchange at a time and looks at the answer: what the refusal of a wrong one rests on. The
//! load generators are quick and look at little; so everything that they ask for is asked for here before.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::Result;
use crate::backend::{LARGE, SMALL};

/// Bytes of the body of an upload.
pub const UPLOAD: usize = 64 << 10;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to a proxy.
pub struct Client {
    stream: Stream,
    buffer: Vec<u8>,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Client {
    pub fn plain(to: SocketAddr) -> Result<Self> {
        Ok(Self { stream: Stream::Plain(connect(to)?), buffer: vec![0; 64 << 10] })
    }

    /// Over TLS, HTTP/1.1; trusts only this certificate.
    pub fn tls(to: SocketAddr, root: &Path) -> Result<Self> {
        let session = ClientConnection::new(Arc::new(tls_config(root)?), ServerName::try_from("localhost")?)?;
        let stream = StreamOwned::new(session, connect(to)?);
        Ok(Self { stream: Stream::Tls(Box::new(stream)), buffer: vec![0; 64 << 10] })
    }

    /// Sends a request, reads the whole answer: its status, and the bytes of its body.
    pub fn exchange(&mut self, method: &str, path: &str, host: &str, body: &[u8]) -> Result<(u16, usize)> {
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{length}\r\n").into_bytes();
        request.extend_from_slice(body);
        self.stream.write_all(&request)?;
        let mut have = 0;
        let (status, length) = loop {
            have += match self.stream.read(&mut self.buffer[have..])? {
                0 => return Err("the connection was closed".into()),
                n => n,
            };
            if let Some(head) = head(&self.buffer[..have])? {
                have -= head.bytes;
                break (head.status, head.length.ok_or("the answer has no Content-Length")?);
            }
        };
        while have < length {
            let want = (length - have).min(self.buffer.len());
            have += match self.stream.read(&mut self.buffer[..want])? {
                0 => return Err(format!("the body ended after {have} bytes of {length}").into()),
                n => n,
            };
        }
        Ok((status, have))
    }

    fn expect(&mut self, method: &str, path: &str, host: &str, body: &[u8], bytes: usize) -> Result<()> {
        let (status, length) = self.exchange(method, path, host, body)?;
        if (status, length) == (200, bytes) {
            return Ok(());
        }
        Err(format!("{method} {path}: status {status} with {length} bytes, instead of 200 with {bytes}").into())
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(buffer),
            Self::Tls(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// Whether a small response comes as it should, over a new connection.
pub fn check_small(to: SocketAddr, host: &str) -> Result<()> {
    Client::plain(to)?.expect("GET", "/", host, &[], SMALL)
}

/// Whether everything that is measured comes as it should: status and length of the body.
pub fn check_all(client: &mut Client, host: &str) -> Result<()> {
    client.expect("GET", "/", host, &[], SMALL)?;
    client.expect("GET", "/large", host, &[], LARGE)?;
    client.expect("POST", "/", host, &[b'p'; UPLOAD], SMALL)
}

/// The head of an answer.
pub struct Head {
    pub bytes: usize,
    pub status: u16,
    pub length: Option<usize>,
}

/// Reads the head of an answer; none if it is not complete.
pub fn head(bytes: &[u8]) -> Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(end) = response.parse(bytes)? else { return Ok(None) };
    let length = response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok());
    Ok(Some(Head { bytes: end, status: response.code.unwrap_or(0), length }))
}

/// Client settings that trust this certificate. The key exchange is X25519 for everyone: some of the servers know a
/// hybrid with ML-KEM too, and would be charged for it. The suite is one, too: servers prefer different ones, which cost
/// differently. No session is resumed.
pub fn tls_config(root: &Path) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(root)?)?;
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
    provider.cipher_suites = vec![rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}
