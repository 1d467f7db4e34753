//! What is passed on at a socket without a look into it, by server name.
//!
//! Built by compile, never changed afterwards; read once per connection, or per session of datagrams.

use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};

use crate::model::{HostPattern, Stream, StreamMode};

use super::boundaries::Boundaries;
use super::hosts::ByHost;
use super::{CompiledRule, EntryTable};

/// The streams of one socket.
pub(super) struct StreamTable {
    /// As in the model, to tell whether the table is still good.
    pub(super) source: Arc<Vec<Stream>>,
    /// How TLS ends here for streams, if it does for any.
    pub(super) terminate: Option<Arc<ServerConfig>>,
    streams: ByHost<Arc<CompiledStream>>,
    /// The hostnames of isolated listeners at which something is passed on.
    listeners: ByHost<()>,
}

/// A stream as connections use it.
pub struct CompiledStream {
    /// The server names.
    pub host: HostPattern,
    /// What is passed on.
    pub mode: StreamMode,
    /// Where it goes.
    pub rule: Arc<CompiledRule>,
    /// For each share, how TLS is spoken to its endpoints; `None` when bytes go there as they come. Unlike the backend's
    /// own configuration it offers no protocol by ALPN: what is spoken inside is the client's affair.
    pub tls: Box<[Option<Arc<ClientConfig>>]>,
}

/// What a connection with some server name is for.
pub enum Dispatch {
    /// It is passed on.
    Stream(Arc<CompiledStream>),
    /// It is for HTTP.
    Http,
    /// It is for nobody.
    Nobody,
}

impl CompiledStream {
    pub(super) fn new(stream: &Stream, rule: Arc<CompiledRule>) -> Self {
        let without_alpn = |config: &Arc<ClientConfig>| {
            let mut config = ClientConfig::clone(config);
            config.alpn_protocols.clear();
            Arc::new(config)
        };
        let tls = rule.shares.iter().map(|share| match stream.mode {
            StreamMode::Passthrough => None,
            StreamMode::Terminate => share.backend.as_ref()?.tls.as_ref().map(without_alpn),
        });
        Self { host: stream.host.clone(), mode: stream.mode, tls: tls.collect(), rule }
    }
}

impl CompiledStream {
    /// Whether any connection can be passed on.
    pub fn has_backend(&self) -> bool {
        self.rule.shares.iter().any(|share| share.weight > 0 && share.backend.is_some())
    }
}

impl StreamTable {
    /// Of two streams of one host the first counts.
    pub(super) fn new(
        source: &Arc<Vec<Stream>>,
        terminate: Option<Arc<ServerConfig>>,
        boundaries: Option<&Boundaries>,
        mut compiled: impl FnMut(&Stream) -> Arc<CompiledStream>,
    ) -> Self {
        let (mut streams, mut listeners) = (ByHost::default(), ByHost::default());
        for stream in &**source {
            if streams.of(&stream.host).is_none() {
                streams.insert(&stream.host, compiled(stream));
            }
            if let Some(listener) = boundaries.and_then(|boundaries| boundaries.listener_of(&stream.host)) {
                listeners.insert(listener, ());
            }
        }
        Self { source: source.clone(), terminate, streams, listeners }
    }

    /// In no order.
    pub(super) fn values(&self) -> impl Iterator<Item = &Arc<CompiledStream>> {
        self.streams.values()
    }

    fn find(&self, server_name: Option<&str>, boundaries: Option<&Boundaries>) -> Option<&Arc<CompiledStream>> {
        let Some(name) = server_name else { return self.streams.any() };
        let least = boundaries.map_or(0, |boundaries| boundaries.precision(name));
        self.streams.each(name, |stream| Some(stream).filter(|_| super::boundaries::precision(&stream.host) >= least))
    }
}

impl EntryTable {
    /// Whether anything is passed on here, so that the server name has to be known before anything else is done.
    pub fn has_streams(&self) -> bool {
        self.streams.is_some()
    }

    /// All streams, in no order; for showing.
    pub fn streams(&self) -> impl Iterator<Item = &Arc<CompiledStream>> {
        self.streams.iter().flat_map(|streams| streams.values())
    }

    /// The streams that match a server name (or none), in the order in which they are looked at, and whether each is at the
    /// name's own listener; for showing.
    pub(super) fn considered_streams(&self, server_name: Option<&str>) -> Vec<(&Arc<CompiledStream>, bool)> {
        let Some(streams) = &self.streams else { return Vec::new() };
        let Some(name) = server_name else {
            return streams.streams.any().map(|stream| (stream, true)).into_iter().collect();
        };
        let least = self.boundaries.as_ref().map_or(0, |boundaries| boundaries.precision(name));
        let mut considered = Vec::new();
        streams.streams.each(name, |stream| {
            considered.push((stream, super::boundaries::precision(&stream.host) >= least));
            None::<()>
        });
        considered
    }

    /// What is passed on whatever the server name: the only stream of a socket for TCP or UDP.
    pub fn stream(&self) -> Option<&Arc<CompiledStream>> {
        self.streams.as_ref()?.streams.any()
    }

    /// How TLS ends here for what is passed on afterwards. `None`: it cannot.
    pub fn terminate(&self) -> Option<&Arc<ServerConfig>> {
        self.streams.as_ref()?.terminate.as_ref()
    }

    /// What a connection is for, by the server name (lower-case) of its handshake.
    ///
    /// A listener is for HTTP or for streams, not for both: where a stream is attached to a listener, a name of that
    /// listener which no stream matches is for nobody.
    pub fn dispatch(&self, server_name: Option<&str>) -> Dispatch {
        let Some(streams) = &self.streams else { return Dispatch::Http };
        let boundaries = self.boundaries.as_deref();
        if let Some(stream) = streams.find(server_name, boundaries) {
            return Dispatch::Stream(stream.clone());
        }
        let own = boundaries.and_then(|boundaries| boundaries.listener(server_name.unwrap_or_default()));
        let is_for_streams = own.is_some_and(|own| streams.listeners.of(own).is_some());
        let can_be_http = !self.hosts.is_empty() && self.certificates.select(server_name).is_some();
        if can_be_http && !is_for_streams { Dispatch::Http } else { Dispatch::Nobody }
    }
}
