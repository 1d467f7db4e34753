//! Listeners of Gateways and ListenerSets: what they say, which stand in each other's way, which certificates they present.
//!
//! A listener goes through steps: it is read alone, compared with the others of its Gateway, and gets its sockets. What is
//! wrong is kept with it for its status, and told to the owner of its object.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use gateway_api::apis::standard::gateways::{GatewayListeners, GatewayListenersTlsMode};

use super::addresses::Sockets;
use super::attach::{covers, intersection};
use super::frontend::{Frontend, Validation};
use super::grant::{self, GATEWAY_GROUP};
use super::namespaces::{self, Namespaces};
use super::reading::Reading;
use super::secret::Certificates;
use super::values;
use crate::model::{
    Bind, CertificateBinding, ClientCertificates, HostPattern, Labels, ObjectName, Protocol, RouteKind, StreamMode,
};

/// What routes see of a listener.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Listener {
    pub name: Arc<str>,
    /// As written, also when it is no port.
    pub port: i32,
    /// Its sockets. Without any it is not served; routes attach all the same.
    pub binds: Vec<Bind>,
    pub hostname: HostPattern,
    /// Hostnames of more specific listeners at the same sockets: what is for these is not for this one.
    pub narrower: Vec<HostPattern>,
    /// Kinds of routes that may attach.
    pub kinds: Vec<RouteKind>,
    pub namespaces: Namespaces,
    pub mode: StreamMode,
}

/// What a listener speaks, as written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Spoken {
    Http,
    Https,
    Tls,
    Tcp,
    Udp,
}

impl Spoken {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "HTTP" => Self::Http,
            "HTTPS" => Self::Https,
            "TLS" => Self::Tls,
            "TCP" => Self::Tcp,
            "UDP" => Self::Udp,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Https => "HTTPS",
            Self::Tls => "TLS",
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }

    /// What its socket speaks: server names tell HTTPS and TLS apart.
    pub fn protocol(self) -> Protocol {
        match self {
            Self::Http => Protocol::Http,
            Self::Https | Self::Tls => Protocol::Https,
            Self::Tcp => Protocol::Tcp,
            Self::Udp => Protocol::Udp,
        }
    }

    /// The kinds of routes that can be served.
    fn kinds(self) -> &'static [RouteKind] {
        match self {
            Self::Http | Self::Https => &[RouteKind::Http, RouteKind::Grpc],
            Self::Tls => &[RouteKind::Tls],
            Self::Tcp => &[RouteKind::Tcp],
            Self::Udp => &[RouteKind::Udp],
        }
    }
}

/// A reason of the Gateway API, and words.
pub(super) type Because = (&'static str, String);

/// A listener on its way.
pub(super) struct Candidate<'a> {
    pub written: &'a GatewayListeners,
    /// Its field in its object.
    pub field: String,
    pub listener: Listener,
    pub spoken: Option<Spoken>,
    /// Why it is not accepted.
    pub refused: Option<Because>,
    /// What stands in its way.
    pub conflict: Option<Because>,
    /// Whether that is of an earlier object; it then stands in nobody's way itself.
    lost: bool,
    /// A reference that leads nowhere; it may be served all the same.
    pub unresolved: Option<Because>,
    /// Why it is not served although it is accepted.
    pub unserved: Option<Because>,
    /// What clients must show.
    pub clients: Option<Arc<ClientCertificates>>,
    /// Whether another listener with TLS at its port is for some of the same names.
    pub overlaps: bool,
}

impl Candidate<'_> {
    /// Whether the Gateway API calls it accepted.
    pub fn accepted(&self) -> bool {
        self.refused.is_none() && self.conflict.is_none()
    }

    /// Whether it is served as far as it depends on itself.
    pub fn valid(&self) -> bool {
        self.accepted() && self.unserved.is_none()
    }

    /// Whether it would be served if only its Gateway had an address.
    pub fn sound(&self) -> bool {
        self.accepted() && self.unserved.as_ref().is_none_or(|(reason, _)| *reason == "Pending")
    }

    /// Whether it presents certificates.
    pub fn ends_tls(&self) -> bool {
        self.accepted()
            && matches!(self.spoken, Some(Spoken::Https | Spoken::Tls))
            && self.listener.mode == StreamMode::Terminate
    }

    fn refuse(&mut self, reading: &mut Reading<'_>, reason: &'static str, field: &str, problem: String, fix: &str) {
        reading.error(reason, format!("{}{field}", self.field), &*problem, fix);
        self.refused.get_or_insert((reason, problem));
    }

    fn unresolve(
        &mut self,
        reading: &mut Reading<'_>,
        reason: &'static str,
        field: String,
        problem: String,
        fix: &str,
    ) {
        reading.error(reason, field, &*problem, fix);
        self.unresolved.get_or_insert((reason, problem));
    }
}

/// Reads a listener alone.
pub(super) fn read<'a>(
    reading: &mut Reading<'_>,
    written: &'a GatewayListeners,
    field: String,
    frontend: &Frontend,
) -> Candidate<'a> {
    let spoken = Spoken::parse(&written.protocol);
    let allowed = written.allowed_routes.as_ref();
    let within = format!("{field}.allowedRoutes.namespaces");
    let namespaces = namespaces::of_routes(reading, allowed.and_then(|it| it.namespaces.as_ref()), &within);
    let listener = Listener {
        name: written.name.as_str().into(),
        port: written.port,
        binds: Vec::new(),
        hostname: HostPattern::Any,
        narrower: Vec::new(),
        kinds: Vec::new(),
        namespaces,
        mode: StreamMode::Passthrough,
    };
    let mut candidate = Candidate {
        written,
        field,
        listener,
        spoken,
        refused: None,
        conflict: None,
        lost: false,
        unresolved: None,
        unserved: None,
        clients: None,
        overlaps: false,
    };
    if values::port(written.port).is_none() {
        let problem = format!("{} is not a port", written.port);
        candidate.refuse(reading, "UnsupportedValue", ".port", problem, "write a number from 1 to 65535");
    }
    let Some(spoken) = spoken else {
        let problem = format!("the protocol {} is not supported", written.protocol);
        let fix = "write HTTP, HTTPS, TLS, TCP or UDP";
        candidate.refuse(reading, "UnsupportedProtocol", ".protocol", problem, fix);
        return candidate;
    };
    hostname(reading, &mut candidate, spoken);
    kinds(reading, &mut candidate, spoken);
    tls(reading, &mut candidate, spoken, frontend);
    candidate
}

fn hostname(reading: &mut Reading<'_>, candidate: &mut Candidate<'_>, spoken: Spoken) {
    let Some(text) = candidate.written.hostname.as_deref().filter(|name| !name.is_empty()) else { return };
    if matches!(spoken, Spoken::Tcp | Spoken::Udp) {
        let problem = format!("a listener of protocol {} sees no host names", spoken.name());
        reading.warning("NoEffect", format!("{}.hostname", candidate.field), problem, "remove it");
        return;
    }
    match values::host_pattern(text, Labels::Many) {
        Ok(hostname) => candidate.listener.hostname = hostname,
        Err(problem) => {
            let fix = "write a name like shop.example.com or *.example.com";
            reading.error("InvalidHostname", format!("{}.hostname", candidate.field), &*problem, fix);
            candidate.refused.get_or_insert(("UnsupportedValue", problem));
        }
    }
}

fn kinds(reading: &mut Reading<'_>, candidate: &mut Candidate<'_>, spoken: Spoken) {
    let written = candidate.written.allowed_routes.as_ref().and_then(|allowed| allowed.kinds.as_ref());
    let Some(written) = written.filter(|kinds| !kinds.is_empty()) else {
        candidate.listener.kinds = spoken.kinds().to_vec();
        return;
    };
    for (index, kind) in written.iter().enumerate() {
        let group = kind.group.as_deref().unwrap_or(GATEWAY_GROUP);
        let known = spoken.kinds().iter().find(|known| group == GATEWAY_GROUP && known.name() == kind.kind);
        match known {
            Some(known) if candidate.listener.kinds.contains(known) => {}
            Some(known) => candidate.listener.kinds.push(*known),
            None => {
                let problem = format!("a listener of protocol {} has no routes of kind {}", spoken.name(), kind.kind);
                let field = format!("{}.allowedRoutes.kinds[{index}]", candidate.field);
                let names: Vec<_> = spoken.kinds().iter().map(|kind| kind.name()).collect();
                let fix = format!("write kind: {}", names.join(" or "));
                candidate.unresolve(reading, "InvalidRouteKinds", field, problem, &fix);
            }
        }
    }
}

fn tls(reading: &mut Reading<'_>, candidate: &mut Candidate<'_>, spoken: Spoken, frontend: &Frontend) {
    let field = format!("{}.tls", candidate.field);
    let written = candidate.written.tls.as_ref();
    if !matches!(spoken, Spoken::Https | Spoken::Tls) {
        if written.is_some() {
            let problem = format!("tls has no effect on a listener of protocol {}", spoken.name());
            reading.warning("NoEffect", field, problem, "write protocol: HTTPS or TLS, or remove it");
        }
        return;
    }
    if written.and_then(|tls| tls.options.as_ref()).is_some_and(|options| !options.is_empty()) {
        let problem = "no TLS option is known";
        reading.warning("NotImplemented", format!("{field}.options"), problem, "remove them");
    }
    let passthrough = written.is_some_and(|tls| tls.mode == Some(GatewayListenersTlsMode::Passthrough));
    match (spoken, passthrough) {
        (Spoken::Tls, true) => {}
        (_, true) => {
            let problem = "TLS is passed through by listeners of protocol TLS only".to_owned();
            let fix = "write protocol: TLS, or mode: Terminate";
            candidate.refuse(reading, "UnsupportedValue", ".tls.mode", problem, fix);
        }
        (_, false) => candidate.listener.mode = StreamMode::Terminate,
    }
    if spoken != Spoken::Https {
        return;
    }
    match frontend.at(candidate.written.port) {
        Validation::None => {}
        Validation::Clients { clients, unresolved } => {
            candidate.clients = Some(clients.clone());
            if let Some(because) = unresolved {
                candidate.unresolved.get_or_insert(because.clone());
            }
        }
        Validation::Unresolved(because) => {
            let problem = "clients cannot be verified, so the listener is not served";
            let fix = "see what is told about the certificates of spec.tls.frontend";
            reading.error("NoValidCACertificate", candidate.field.clone(), problem, fix);
            candidate.refused.get_or_insert(("NoValidCACertificate", because.1.clone()));
            candidate.unresolved.get_or_insert(because.clone());
        }
    }
}

/// How two listeners at one port stand in each other's way.
fn clash(one: &Candidate<'_>, other: &Candidate<'_>) -> Option<(&'static str, &'static str)> {
    let (Some(first), Some(second)) = (one.spoken, other.spoken) else { return None };
    // What is refused for another reason is at no port.
    if one.refused.is_some() || other.refused.is_some() || one.written.port != other.written.port {
        return None;
    }
    let udp = first == Spoken::Udp;
    if udp != (second == Spoken::Udp) {
        return None;
    }
    if first.protocol() != second.protocol() {
        return Some(("ProtocolConflict", "speaks another protocol at the same port"));
    }
    if matches!(first, Spoken::Tcp | Spoken::Udp) {
        return Some(("ProtocolConflict", "has the same port, and nothing else tells connections apart"));
    }
    if one.listener.hostname != other.listener.hostname {
        return None;
    }
    Some(if first == second {
        ("HostnameConflict", "has the same port and hostname")
    } else {
        ("ProtocolConflict", "has the same port and hostname, but another protocol")
    })
}

/// One object with its listeners.
pub(super) struct Group<'a> {
    pub reading: Reading<'a>,
    pub candidates: Vec<Candidate<'a>>,
}

/// Finds listeners that stand in each other's way. `groups` are the Gateway, and its ListenerSets in their order: an earlier
/// object wins over a later one; of the listeners of one object none does (Gateway API, "Handling indistinct Listeners").
pub(super) fn conflicts(groups: &mut [Group<'_>]) {
    /// Found while everything is borrowed.
    struct Found {
        index: usize,
        because: Because,
        lost: bool,
    }
    let mut standing = Standing::default();
    for later in 0..groups.len() {
        let mut found: Vec<Found> = Vec::new();
        let own = &groups[later].candidates;
        for (index, candidate) in own.iter().enumerate() {
            let lost = standing.rival(candidate).and_then(|(group, at)| {
                let (source, earlier) = (&groups[group].reading.source, &groups[group].candidates[at]);
                let (reason, how) = clash(earlier, candidate)?;
                Some((reason, format!("listener `{}` of {source} {how}", earlier.written.name)))
            });
            if let Some(because) = lost {
                found.push(Found { index, because, lost: true });
            }
        }
        let lost: Vec<usize> = found.iter().map(|found| found.index).collect();
        for (index, candidate) in own.iter().enumerate().filter(|(index, _)| !lost.contains(index)) {
            let rivals = own.iter().enumerate().filter(|(rival, _)| *rival != index && !lost.contains(rival));
            let rival = rivals.filter_map(|(_, rival)| Some((rival, clash(rival, candidate)?))).next();
            if let Some((rival, (reason, how))) = rival {
                let because = (reason, format!("listener `{}` {how}", rival.written.name));
                found.push(Found { index, because, lost: false });
            }
        }
        for Found { index, because, lost } in found {
            let group = &mut groups[later];
            let candidate = &mut group.candidates[index];
            let (field, fix) = match because.0 {
                "HostnameConflict" => ("hostname", "use another port or hostname"),
                _ => ("protocol", "use another port"),
            };
            let field = format!("{}.{field}", candidate.field);
            group.reading.error(because.0, field, &*because.1, fix);
            candidate.conflict = Some(because);
            candidate.lost = lost;
        }
        for (index, candidate) in groups[later].candidates.iter().enumerate().filter(|(_, it)| !it.lost) {
            standing.add(candidate, (later, index));
        }
    }
}

/// Listeners of earlier objects that did not lose, by what another one may clash with: a thousand ListenerSets are not to be
/// compared each with each. Places are numbers of an object and of its listener; the first of each sort is enough.
#[derive(Default)]
struct Standing {
    ports: HashMap<(i32, bool), AtPort>,
}

#[derive(Default)]
struct AtPort {
    protocols: Vec<(Protocol, Place)>,
    hostnames: HashMap<(Protocol, HostPattern), Place>,
}

type Place = (usize, usize);

impl Standing {
    fn add(&mut self, candidate: &Candidate<'_>, place: Place) {
        let Some(spoken) = candidate.spoken.filter(|_| candidate.refused.is_none()) else { return };
        let (protocol, listener) = (spoken.protocol(), &candidate.listener);
        let port = self.ports.entry((candidate.written.port, spoken == Spoken::Udp)).or_default();
        if port.protocols.iter().all(|(known, _)| *known != protocol) {
            port.protocols.push((protocol, place));
        }
        port.hostnames.entry((protocol, listener.hostname.clone())).or_insert(place);
    }

    /// The first with which it clashes.
    fn rival(&self, candidate: &Candidate<'_>) -> Option<Place> {
        let spoken = candidate.spoken.filter(|_| candidate.refused.is_none())?;
        let protocol = spoken.protocol();
        let port = self.ports.get(&(candidate.written.port, spoken == Spoken::Udp))?;
        let alone = matches!(spoken, Spoken::Tcp | Spoken::Udp);
        let by_protocol =
            port.protocols.iter().filter(|(known, _)| alone || *known != protocol).map(|(_, place)| *place);
        let by_hostname = port.hostnames.get(&(protocol, candidate.listener.hostname.clone())).copied();
        by_protocol.chain(by_hostname).min()
    }
}

/// The sockets that a listener asks for; `None` where the settings' sockets speak something else.
pub(super) fn binds(spoken: Spoken, port: u16, sockets: &Sockets) -> Option<Vec<Bind>> {
    let udp = spoken == Spoken::Udp;
    Some(match (sockets, port, spoken) {
        (Sockets::Own(addresses), ..) => {
            let bind = if udp { Bind::UdpAddress } else { Bind::Address };
            addresses.iter().map(|address| bind(SocketAddr::new(*address, port))).collect()
        }
        (Sockets::Shared, ..) if udp => vec![Bind::UdpPort(port)],
        (Sockets::Shared, 80, Spoken::Http) => vec![Bind::Http],
        (Sockets::Shared, 443, Spoken::Https | Spoken::Tls) => vec![Bind::Https],
        (Sockets::Shared, 80 | 443, _) => return None,
        (Sockets::Shared, ..) => vec![Bind::Port(port)],
    })
}

/// Tells every listener which more specific ones of its Gateway are at the same sockets.
pub(super) fn isolate(groups: &mut [Group<'_>]) {
    let served = groups.iter().flat_map(|group| &group.candidates).filter(|candidate| candidate.accepted());
    let all: Vec<(Vec<Bind>, HostPattern)> =
        served.map(|candidate| (candidate.listener.binds.clone(), candidate.listener.hostname.clone())).collect();
    for candidate in groups.iter_mut().flat_map(|group| &mut group.candidates) {
        let own = &mut candidate.listener;
        // Nothing is more specific than a name. Of a thousand listeners most have one.
        if matches!(own.hostname, HostPattern::Exact(_)) {
            continue;
        }
        let same = all.iter().filter(|(binds, _)| binds.iter().any(|bind| own.binds.contains(bind)));
        own.narrower = same
            .map(|(_, hostname)| hostname)
            .filter(|hostname| **hostname != own.hostname && covers(&own.hostname, hostname))
            .cloned()
            .collect();
    }
}

/// Marks the listeners with TLS whose hostnames overlap at one socket: one of two is more specific then. To be called when
/// it is known who is.
pub(super) fn overlaps(groups: &mut [Group<'_>]) {
    let with_tls = |candidate: &&mut Candidate<'_>| {
        candidate.accepted() && matches!(candidate.spoken, Some(Spoken::Https | Spoken::Tls))
    };
    let mut within: HashSet<(Bind, HostPattern)> = HashSet::new();
    for candidate in groups.iter_mut().flat_map(|group| &mut group.candidates).filter(with_tls) {
        let own = &candidate.listener;
        candidate.overlaps = !own.narrower.is_empty();
        for bind in &own.binds {
            within.extend(own.narrower.iter().map(|hostname| (*bind, hostname.clone())));
        }
    }
    for candidate in groups.iter_mut().flat_map(|group| &mut group.candidates).filter(with_tls) {
        let own = &candidate.listener;
        candidate.overlaps |= own.binds.iter().any(|bind| within.contains(&(*bind, own.hostname.clone())));
    }
}

/// Loads the certificates of a listener that ends TLS.
pub(super) fn present(
    reading: &mut Reading<'_>,
    certificates: &mut Certificates,
    candidate: &mut Candidate<'_>,
    bindings: &mut Vec<(Bind, CertificateBinding)>,
) {
    let references = candidate.written.tls.iter().flat_map(|tls| tls.certificate_refs.iter().flatten());
    let (mut count, mut good) = (0, 0);
    for (index, reference) in references.enumerate() {
        count += 1;
        let field = format!("{}.tls.certificateRefs[{index}]", candidate.field);
        let found = certificate(
            reading,
            certificates,
            (reference.group.as_deref(), reference.kind.as_deref()),
            reference.namespace.as_deref(),
            &reference.name,
            &field,
        );
        let (certificate, names) = match found {
            Ok((_, certificate, names)) => (certificate, names),
            Err(because) => {
                candidate.unresolved.get_or_insert(because);
                continue;
            }
        };
        good += 1;
        // The first certificate is the listener's; further ones are for those of its names that they contain: others may
        // be hosts of other Gateways or of Ingresses.
        let hostname = &candidate.listener.hostname;
        let hosts = match index {
            0 => vec![hostname.clone()],
            _ => names.iter().filter_map(|name| intersection(name, hostname)).collect(),
        };
        for bind in &candidate.listener.binds {
            for host in &hosts {
                let binding = CertificateBinding { host: host.clone(), certificate: certificate.clone() };
                bindings.push((*bind, binding));
            }
        }
    }
    if count == 0 {
        let problem = "a listener that ends TLS needs a certificate; clients get an alert".to_owned();
        let field = format!("{}.tls.certificateRefs", candidate.field);
        let fix = "name a Secret of type kubernetes.io/tls";
        candidate.unresolve(reading, "InvalidCertificateRef", field, problem, fix);
    }
    if good == 0 {
        let why = candidate.unresolved.as_ref().map(|(_, why)| why.clone()).unwrap_or_default();
        candidate.unserved.get_or_insert(("Invalid", why));
    }
}

/// A certificate that an object of the Gateway API refers to: the Secret, what is in it, and the names in that.
pub(super) fn certificate(
    reading: &mut Reading<'_>,
    certificates: &mut Certificates,
    (group, kind): (Option<&str>, Option<&str>),
    namespace: Option<&str>,
    name: &str,
    field: &str,
) -> Result<(ObjectName, Arc<crate::model::Certificate>, Vec<HostPattern>), Because> {
    let kind = kind.unwrap_or("Secret");
    if !group.unwrap_or_default().is_empty() || kind != "Secret" {
        let problem = format!("certificates of kind {kind} are not supported");
        reading.error("InvalidCertificateRef", field, &*problem, "name a Secret of type kubernetes.io/tls");
        return Err(("InvalidCertificateRef", problem));
    }
    let namespace: Arc<str> = namespace.map_or_else(|| reading.namespace(), Into::into);
    let name = ObjectName::new(namespace, name);
    if !grant::permitted(reading, "Secret", &name) {
        let problem = format!("Secret {name} is in another namespace, and no ReferenceGrant there permits this");
        let fix =
            format!("add a ReferenceGrant in namespace {}, from {} to Secret", name.namespace, reading.source.kind);
        reading.error("RefNotPermitted", field, &*problem, &fix);
        return Err(("RefNotPermitted", problem));
    }
    match certificates.load(reading, &name, field) {
        Some((certificate, names)) => Ok((name, certificate, names)),
        None => {
            let told = reading.verdicts.last().map(|verdict| verdict.problem.clone());
            Err(("InvalidCertificateRef", told.unwrap_or_default()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::control::translate::Objects;
    use crate::model::ObjectRef;

    /// The first earlier listener that clashes, by comparing with all of them.
    fn naive(groups: &[Group<'_>], later: usize, candidate: &Candidate<'_>) -> Option<Place> {
        let all = groups[..later]
            .iter()
            .enumerate()
            .flat_map(|(group, it)| it.candidates.iter().enumerate().map(move |(at, earlier)| ((group, at), earlier)));
        let mut standing = all.filter(|(_, earlier)| !earlier.lost);
        standing.find(|(_, earlier)| clash(earlier, candidate).is_some()).map(|(place, _)| place)
    }

    #[test]
    fn the_first_listener_in_the_way_is_the_one_that_comparing_all_would_find() {
        let objects = Objects::default();
        let mut clashes = BTreeMap::new();
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut written: Vec<Vec<GatewayListeners>> = Vec::new();
            for _ in 0..12 {
                let listener = |random: &mut fastrand::Rng| {
                    let protocol = *random.choice(&["HTTP", "HTTPS", "TLS", "TCP", "UDP", "SMTP"]).unwrap();
                    let hostname = *random.choice(&["", "a.test", "b.test", "*.test"]).unwrap();
                    let port = *random.choice(&[80, 443, 443, 8000]).unwrap();
                    let value = json!({"name": "l", "port": port, "protocol": protocol, "hostname": hostname});
                    serde_json::from_value(value).unwrap()
                };
                let mut listeners = vec![listener(&mut random)];
                if random.bool() {
                    listeners.push(listener(&mut random));
                }
                written.push(listeners);
            }
            let source = ObjectRef::new("ListenerSet", ObjectName::new("shop", "s"));
            let mut groups: Vec<Group<'_>> = Vec::new();
            for listeners in &written {
                let mut reading = Reading::new(source.clone(), &objects);
                let each = listeners.iter();
                let read = |it| read(&mut reading, it, String::new(), &Frontend::default());
                let candidates = each.map(read).collect();
                groups.push(Group { reading, candidates });
            }
            conflicts(&mut groups);
            let mut standing = Standing::default();
            for later in 0..groups.len() {
                for candidate in &groups[later].candidates {
                    let found = standing.rival(candidate);
                    assert_eq!(found, naive(&groups, later, candidate), "seed {seed}, object {later}");
                    assert_eq!(found.is_some(), candidate.lost, "seed {seed}, object {later}");
                    *clashes.entry(found.is_some()).or_insert(0) += 1;
                }
                for (index, it) in groups[later].candidates.iter().enumerate().filter(|(_, it)| !it.lost) {
                    standing.add(it, (later, index));
                }
            }
        }
        assert!(clashes[&true] > 100 && clashes[&false] > 100, "{clashes:?}");
    }
}
