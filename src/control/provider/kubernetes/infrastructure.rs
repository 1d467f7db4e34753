//! What stands for a Gateway inside the cluster: a headless Service with its addresses, labelled as the Gateway asks.
//!
//! Pods reach the Gateway by the name `GATEWAY-weir`, and tools find it by the label of the Gateway API. Both objects
//! belong to the Gateway and go with it. Whatever else has that name is left alone: an object is Weir's only with Weir's marks.

use std::hash::{BuildHasher, Hash};
use std::net::IpAddr;

use foldhash::fast::FixedState;
use serde_json::{Value, json};

use super::remote::{Kind, Refusal, Remote, SERVICE, SLICE};
use crate::model::{GatewayAddress, Infrastructure, ObjectName};

/// Which Gateway an object was made for (Gateway API, GatewayNameLabelKey).
const GATEWAY: &str = "gateway.networking.k8s.io/gateway-name";
const MANAGED: &str = "app.kubernetes.io/managed-by";
const MANAGER_LABEL: &str = "weir.dev";
/// A short form of all that was written, so that it is written once.
pub const WRITTEN: &str = "weir.dev/written";
/// The longest name of a Service.
const NAME: usize = 63;

/// What is wanted for a Gateway.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Wanted {
    /// Addresses of its own.
    pub addresses: Vec<IpAddr>,
    labels: Vec<(String, String)>,
    annotations: Vec<(String, String)>,
}

impl Wanted {
    /// `None`: nothing needs to stand for it. `own` says whether its addresses are nobody else's.
    pub fn of(addresses: &[GatewayAddress], own: bool, infrastructure: &Infrastructure) -> Option<Self> {
        let Infrastructure { labels, annotations } = infrastructure;
        // An EndpointSlice has no place for addresses of the machine alone.
        let reachable = addresses.iter().filter_map(|address| match address {
            GatewayAddress::Ip(ip) if !ip.is_loopback() && !ip.is_unspecified() => Some(*ip),
            _ => None,
        });
        let wanted = Self { addresses: reachable.collect(), labels: labels.clone(), annotations: annotations.clone() };
        let asked = !labels.is_empty() || !annotations.is_empty();
        (asked || own && !wanted.addresses.is_empty()).then_some(wanted)
    }

    fn fingerprint(&self) -> String {
        format!("{:016x}", FixedState::with_seed(1).hash_one(self))
    }
}

/// `edge-weir`; a long name is cut, and gets what tells it apart.
fn name(gateway: &str) -> String {
    let plain = format!("{gateway}-weir").replace('.', "-");
    if plain.len() <= NAME && !gateway.contains('.') && !gateway.starts_with(|c: char| c.is_ascii_digit()) {
        return plain;
    }
    let tail = format!("-{:08x}-weir", FixedState::with_seed(2).hash_one(gateway) as u32);
    let start = if plain.starts_with(|c: char| c.is_ascii_digit()) { "gw-" } else { "" };
    let head = format!("{start}{}", gateway.replace('.', "-"));
    let head = head[..head.len().min(NAME - tail.len())].trim_end_matches('-');
    format!("{head}{tail}")
}

/// What both objects have in common.
fn metadata(wanted: &Wanted, name: &str, gateway: &ObjectName, uid: &str) -> Value {
    let pairs = |pairs: &[(String, String)]| -> Value { pairs.iter().map(|(k, v)| (k.clone(), json!(v))).collect() };
    let (mut labels, mut annotations) = (pairs(&wanted.labels), pairs(&wanted.annotations));
    labels[MANAGED] = json!(MANAGER_LABEL);
    labels[GATEWAY] = json!(label(&gateway.name));
    annotations[WRITTEN] = json!(wanted.fingerprint());
    json!({
        "name": name,
        "namespace": gateway.namespace,
        "labels": labels,
        "annotations": annotations,
        "ownerReferences": [{
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "name": gateway.name, "uid": uid,
        }],
    })
}

/// A label's value is shorter than a name may be.
fn label(gateway: &str) -> &str {
    gateway[..gateway.len().min(63)].trim_end_matches(['-', '.'])
}

fn service(wanted: &Wanted, gateway: &ObjectName, uid: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(wanted, &name(&gateway.name), gateway, uid),
        "spec": {"clusterIP": "None", "type": "ClusterIP"},
    })
}

fn slice(wanted: &Wanted, gateway: &ObjectName, uid: &str, v6: bool) -> Value {
    let service = name(&gateway.name);
    let endpoint = |ip: &IpAddr| json!({"addresses": [ip], "conditions": {"ready": true}});
    let endpoints: Vec<Value> = wanted.addresses.iter().filter(|ip| ip.is_ipv6() == v6).map(endpoint).collect();
    let plain = Wanted { addresses: wanted.addresses.clone(), ..Wanted::default() };
    let mut metadata = metadata(&plain, &format!("{service}-ipv{}", if v6 { 6 } else { 4 }), gateway, uid);
    metadata["labels"]["kubernetes.io/service-name"] = json!(service);
    metadata["labels"]["endpointslice.kubernetes.io/managed-by"] = json!(MANAGER_LABEL);
    json!({
        "apiVersion": SLICE.api_version(),
        "kind": "EndpointSlice",
        "metadata": metadata,
        "addressType": if v6 { "IPv6" } else { "IPv4" },
        "endpoints": endpoints,
        "ports": [],
    })
}

/// What there is under a name.
#[derive(PartialEq, Debug)]
enum There {
    Nothing,
    /// Weir's; its metadata.
    Ours(Value),
    Foreign,
}

impl There {
    /// An object is Weir's if it has all three marks that Weir writes, and names this Gateway.
    fn of(object: Option<Value>, gateway: &str) -> Self {
        let Some(mut object) = object else { return Self::Nothing };
        let metadata = object["metadata"].take();
        let (labels, written) = (&metadata["labels"], &metadata["annotations"][WRITTEN]);
        let whole = written.is_string() && labels[GATEWAY] == label(gateway);
        let ours = labels[MANAGED] == MANAGER_LABEL && (whole || *written == unfinished(gateway));
        if ours { Self::Ours(metadata) } else { Self::Foreign }
    }

    /// Whether it was written as `wanted`, for the same Gateway.
    fn says(&self, wanted: &Value) -> bool {
        let Self::Ours(metadata) = self else { return false };
        let wanted = &wanted["metadata"];
        metadata["annotations"][WRITTEN] == wanted["annotations"][WRITTEN]
            && metadata["ownerReferences"][0]["uid"] == wanted["ownerReferences"][0]["uid"]
    }
}

/// One object that stands for a Gateway.
struct Place<'a> {
    remote: &'a Remote,
    kind: &'static Kind,
    namespace: &'a str,
    /// Name of the Gateway.
    gateway: &'a str,
    name: String,
    there: There,
}

impl<'a> Place<'a> {
    async fn look(
        remote: &'a Remote,
        kind: &'static Kind,
        gateway: &'a ObjectName,
        name: String,
    ) -> Result<Self, Refusal> {
        let namespace: &str = &gateway.namespace;
        let object = absent(remote.read(&kind.path(namespace, &name)).await)?;
        let there = There::of(object, &gateway.name);
        Ok(Self { remote, kind, namespace, gateway: &gateway.name, name, there })
    }

    fn free(&self) -> Result<(), Refusal> {
        let Self { kind, namespace, name, there, .. } = self;
        match there {
            There::Foreign => {
                Err(Refusal::Invalid(format!("{} {namespace}/{name} is somebody else's; rename it", kind.name)))
            }
            There::Nothing | There::Ours(_) => Ok(()),
        }
    }

    /// Whether something had to be written.
    async fn write(&self, mut wanted: Value) -> Result<bool, Refusal> {
        self.free()?;
        if self.there.says(&wanted) {
            return Ok(false);
        }
        let made;
        let metadata = match &self.there {
            There::Ours(metadata) => metadata,
            // Only this is refused when somebody else was faster. It says no more than what never changes: what is
            // made in this way would not go when it is not applied any more.
            There::Nothing | There::Foreign => {
                made = self.remote.create(&self.kind.list(self.namespace), &bare(&wanted, self.gateway)).await?;
                &made["metadata"]
            }
        };
        wanted["metadata"]["uid"] = metadata["uid"].clone();
        wanted["metadata"]["resourceVersion"] = metadata["resourceVersion"].clone();
        match self.remote.apply(&self.kind.path(self.namespace, &self.name), &wanted).await {
            // It went meanwhile, but is still wanted.
            Err(Refusal::Absent) => Err(Refusal::Conflict),
            answer => answer.map(|_| true),
        }
    }

    /// Whether something had to be removed.
    async fn remove(&self) -> Result<bool, Refusal> {
        let There::Ours(metadata) = &self.there else { return Ok(false) };
        let uid = metadata["uid"].as_str().unwrap_or_default();
        absent(self.remote.delete(&self.kind.path(self.namespace, &self.name), uid).await)?;
        Ok(true)
    }
}

/// What is written in the place of a short form as long as there is no more than the beginning of an object.
fn unfinished(gateway: &str) -> String {
    format!("for {gateway}")
}

/// The marks, and what an object must have. Without the label that tools find it by: whoever finds it is to find all of it.
fn bare(wanted: &Value, gateway: &str) -> Value {
    let (mut bare, metadata) = (wanted.clone(), &wanted["metadata"]);
    bare["metadata"] = json!({
        "name": metadata["name"],
        "namespace": metadata["namespace"],
        "labels": {MANAGED: metadata["labels"][MANAGED]},
        "annotations": {WRITTEN: unfinished(gateway)},
    });
    if wanted.get("endpoints").is_some() {
        bare["endpoints"] = json!([]);
    }
    bare
}

/// Brings all objects up to what is wanted.
pub async fn write(remote: &Remote, gateway: &ObjectName, wanted: Option<&Wanted>) -> Result<&'static str, Refusal> {
    let name = name(&gateway.name);
    let service_place = Place::look(remote, &SERVICE, gateway, name.clone()).await?;
    let slice_places = [
        (false, Place::look(remote, &SLICE, gateway, format!("{name}-ipv4")).await?),
        (true, Place::look(remote, &SLICE, gateway, format!("{name}-ipv6")).await?),
    ];
    let mut changed = false;
    let Some(wanted) = wanted else {
        for (_, place) in &slice_places {
            changed |= place.remove().await?;
        }
        changed |= service_place.remove().await?;
        return Ok(if changed { "removed" } else { "unchanged" });
    };
    service_place.free()?;
    let owner = remote.read(&GATEWAYS.path(&gateway.namespace, &gateway.name)).await?;
    let uid = owner["metadata"]["uid"].as_str().unwrap_or_default();
    for (v6, place) in &slice_places {
        changed |= match wanted.addresses.iter().any(|ip| ip.is_ipv6() == *v6) {
            true => place.write(slice(wanted, gateway, uid, *v6)).await?,
            false => place.remove().await?,
        };
    }
    changed |= service_place.write(service(wanted, gateway, uid)).await?;
    Ok(if changed { "written" } else { "unchanged" })
}

/// Gateway.
static GATEWAYS: Kind =
    Kind { name: "Gateway", group: "gateway.networking.k8s.io", version: "v1", plural: "gateways", namespaced: true };

fn absent(answer: Result<Value, Refusal>) -> Result<Option<Value>, Refusal> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(Refusal::Absent) => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_names_of_services_and_differ() {
        assert_eq!(name("edge"), "edge-weir");
        let long = name(&"a".repeat(253));
        let other = name(&format!("{}b", "a".repeat(252)));
        for name in [&long, &other, &name("a.b"), &name("1-edge")] {
            let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(name.len() <= 63 && name.chars().all(label) && name.starts_with(|c: char| c.is_ascii_lowercase()));
        }
        assert_ne!(long, other);
        assert_ne!(name("a.b"), name("a-b"));
    }

    #[test]
    fn a_gateway_gets_a_service_when_it_has_an_address_of_its_own_or_asks_for_one() {
        let address = [GatewayAddress::Ip([192, 0, 2, 1].into())];
        let asks = Infrastructure { labels: vec![("team".to_owned(), "shop".to_owned())], annotations: Vec::new() };
        let none = Infrastructure::default();
        assert!(Wanted::of(&address, true, &none).is_some() && Wanted::of(&address, false, &asks).is_some());
        assert_eq!(Wanted::of(&address, false, &none), None);
        assert_eq!(Wanted::of(&[GatewayAddress::Ip([127, 0, 0, 1].into())], true, &none), None);
        let wanted = Wanted::of(&address, true, &asks).expect("a Service");
        let service = service(&wanted, &ObjectName::new("shop", "edge"), "u");
        assert_eq!(service["metadata"]["labels"], json!({"team": "shop", MANAGED: "weir.dev", GATEWAY: "edge"}));
        let slice = slice(&wanted, &ObjectName::new("shop", "edge"), "u", false);
        assert_eq!(slice["endpoints"][0]["addresses"], json!(["192.0.2.1"]));
        assert_eq!(slice["metadata"]["labels"]["kubernetes.io/service-name"], "edge-weir");
    }

    #[test]
    fn only_what_has_all_marks_is_weirs() {
        let wanted = Wanted { addresses: vec![[192, 0, 2, 1].into()], ..Wanted::default() };
        let gateway = ObjectName::new("shop", "edge");
        for made in [service(&wanted, &gateway, "u"), slice(&wanted, &gateway, "u", false)] {
            let ours = There::of(Some(made.clone()), "edge");
            assert!(matches!(ours, There::Ours(_)) && ours.says(&made));
            let begun = bare(&made, "edge");
            assert!(begun["metadata"]["labels"].get(GATEWAY).is_none(), "it is found only when it is whole");
            assert!(matches!(There::of(Some(begun.clone()), "edge"), There::Ours(_)), "it may end between two writes");
            assert!(!There::of(Some(begun.clone()), "edge").says(&made));
            assert_eq!(There::of(Some(begun), "other"), There::Foreign);
            assert_eq!(There::of(Some(made.clone()), "other"), There::Foreign);
            for (part, mark) in [("labels", MANAGED), ("labels", GATEWAY), ("annotations", WRITTEN)] {
                let mut foreign = made.clone();
                foreign["metadata"][part].as_object_mut().expect("a map").remove(mark);
                assert_eq!(There::of(Some(foreign), "edge"), There::Foreign, "without {mark}");
            }
        }
        assert_eq!(There::of(None, "edge"), There::Nothing);
        assert!(!There::Nothing.says(&service(&wanted, &gateway, "u")), "what somebody has deleted comes back");
        let again = service(&wanted, &gateway, "v");
        assert!(!There::of(Some(service(&wanted, &gateway, "u")), "edge").says(&again), "another Gateway of the name");
    }
}
