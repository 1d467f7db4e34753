//! What stands for a Gateway inside the cluster: a headless Service with its addresses, labelled as the Gateway asks.
//!
//! Pods reach the Gateway by the name `GATEWAY-weir`, and tools find it by the label of the Gateway API. Both objects
//! belong to the Gateway and go with it. Whatever else has that name is left alone.

use std::hash::{BuildHasher, Hash};
use std::net::IpAddr;

use foldhash::fast::FixedState;
use serde_json::{Value, json};

use super::remote::{Kind, Refusal, Remote, SERVICE, SLICE};
use crate::model::{GatewayAddress, Infrastructure, ObjectName};

/// Which Gateway an object was made for (Gateway API, GatewayNameLabelKey).
const GATEWAY: &str = "gateway.networking.k8s.io/gateway-name";
const MANAGED: &str = "app.kubernetes.io/managed-by";
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
    labels[MANAGED] = json!("weir.dev");
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
    metadata["labels"]["endpointslice.kubernetes.io/managed-by"] = json!("weir.dev");
    json!({
        "apiVersion": SLICE.api_version(),
        "kind": "EndpointSlice",
        "metadata": metadata,
        "addressType": if v6 { "IPv6" } else { "IPv4" },
        "endpoints": endpoints,
        "ports": [],
    })
}

/// Brings both objects up to what is wanted.
pub async fn write(remote: &Remote, gateway: &ObjectName, wanted: Option<&Wanted>) -> Result<&'static str, Refusal> {
    let ObjectName { namespace, .. } = gateway;
    let name = name(&gateway.name);
    let there = absent(remote.read(&SERVICE.path(namespace, &name)).await)?;
    let metadata = there.as_ref().map(|there| &there["metadata"]).unwrap_or(&Value::Null);
    if there.is_some() && metadata["labels"][GATEWAY] != label(&gateway.name) {
        return match wanted {
            Some(_) => Err(Refusal::Invalid(format!("Service {namespace}/{name} is somebody else's; rename it"))),
            None => Ok("unchanged"),
        };
    }
    let Some(wanted) = wanted else {
        let Some(uid) = metadata["uid"].as_str() else { return Ok("unchanged") };
        absent(remote.delete(&SERVICE.path(namespace, &name), uid).await)?;
        for family in [4, 6] {
            let path = SLICE.path(namespace, &format!("{name}-ipv{family}"));
            if let Some(slice) = absent(remote.read(&path).await)? {
                absent(remote.delete(&path, slice["metadata"]["uid"].as_str().unwrap_or_default()).await)?;
            }
        }
        return Ok("removed");
    };
    let owner = remote.read(&GATEWAYS.path(namespace, &gateway.name)).await?;
    let uid = owner["metadata"]["uid"].as_str().unwrap_or_default();
    let same = metadata["annotations"][WRITTEN] == wanted.fingerprint();
    if same && metadata["ownerReferences"][0]["uid"] == uid {
        return Ok("unchanged");
    }
    // The Service's fingerprint says that everything is there: it is the last to be written.
    for v6 in [false, true] {
        let slice = slice(wanted, gateway, uid, v6);
        let path = SLICE.path(namespace, slice["metadata"]["name"].as_str().unwrap_or_default());
        let is_empty = slice["endpoints"].as_array().is_none_or(Vec::is_empty);
        if !is_empty || absent(remote.read(&path).await)?.is_some() {
            remote.apply(&path, &slice).await?;
        }
    }
    remote.apply(&SERVICE.path(namespace, &name), &service(wanted, gateway, uid)).await?;
    Ok("written")
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
}
