//! Manifests as an operator would write them.

use std::fmt::{Display, Write};
use std::net::SocketAddr;

use super::certificates::Leaf;

/// A Service in namespace `default` with port 80 and its endpoints in the annotation.
pub fn service(name: &str, endpoints: &[SocketAddr]) -> String {
    service_with(name, endpoints, &[], "")
}

/// The same with more annotations and an `appProtocol` (none if empty).
pub fn service_with(name: &str, endpoints: &[SocketAddr], annotations: &[(&str, &str)], protocol: &str) -> String {
    let list: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    let mut yaml = format!("apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  annotations:\n");
    writeln!(yaml, "    weir.dev/endpoints: \"{}\"", list.join(",")).unwrap();
    for (key, value) in annotations {
        writeln!(yaml, "    {key}: {}", quoted(value)).unwrap();
    }
    yaml.push_str("spec:\n  ports:\n  - port: 80\n");
    if !protocol.is_empty() {
        writeln!(yaml, "    appProtocol: {protocol}").unwrap();
    }
    yaml + "---\n"
}

/// A Service without endpoints of its own, with annotations: the apex of a blue-green pair.
pub fn apex(name: &str, annotations: &[(&str, &str)], protocol: &str) -> String {
    let mut yaml = format!("apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  annotations:\n");
    for (key, value) in annotations {
        writeln!(yaml, "    {key}: {}", quoted(value)).unwrap();
    }
    yaml.push_str("spec:\n  ports:\n  - port: 80\n");
    if !protocol.is_empty() {
        writeln!(yaml, "    appProtocol: {protocol}").unwrap();
    }
    yaml + "---\n"
}

/// A Service whose endpoints come from EndpointSlices.
pub fn plain_service(name: &str, protocol: &str) -> String {
    let mut yaml = format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  ports:\n  - name: http\n    port: 80\n"
    );
    if !protocol.is_empty() {
        writeln!(yaml, "    appProtocol: {protocol}").unwrap();
    }
    yaml + "---\n"
}

/// What an EndpointSlice says of an address.
#[derive(Clone, Copy)]
pub struct Conditions {
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
}

impl Conditions {
    pub const READY: Self = Self { ready: true, serving: true, terminating: false };
    pub const NOT_READY: Self = Self { ready: false, serving: false, terminating: false };
    pub const TERMINATING: Self = Self { ready: false, serving: true, terminating: true };
}

/// One EndpointSlice per address, because addresses on loopback differ by port.
pub fn slices(service: &str, endpoints: &[(SocketAddr, Conditions)]) -> String {
    let mut yaml = String::new();
    for (index, (address, conditions)) in endpoints.iter().enumerate() {
        write!(
            yaml,
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {service}-{index}\n  labels:\n    \
             kubernetes.io/service-name: {service}\naddressType: IPv4\nports:\n- name: http\n  port: {port}\nendpoints:\n\
             - addresses: [\"{ip}\"]\n  conditions: {{ready: {ready}, serving: {serving}, terminating: {terminating}}}\n  \
             targetRef: {{kind: Pod, name: {service}-pod-{index}}}\n---\n",
            port = address.port(),
            ip = address.ip(),
            ready = conditions.ready,
            serving = conditions.serving,
            terminating = conditions.terminating,
        )
        .unwrap();
    }
    yaml
}

/// An Ingress for one host that sends everything below a path to port 80 of a Service.
pub fn ingress(name: &str, host: &str, path: &str, service: &str) -> String {
    ingress_with(name, host, &[(path, "Prefix", service)], "", &[])
}

/// An Ingress for one host (any if empty) with `(path, pathType, service)` rows, a TLS Secret (none if empty) and
/// annotations.
pub fn ingress_with(
    name: &str,
    host: &str,
    paths: &[(&str, &str, &str)],
    secret: &str,
    annotations: &[(&str, &str)],
) -> String {
    let mut yaml = format!("apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: {name}\n");
    if !annotations.is_empty() {
        yaml.push_str("  annotations:\n");
        for (key, value) in annotations {
            writeln!(yaml, "    {key}: {}", quoted(value)).unwrap();
        }
    }
    yaml.push_str("spec:\n  ingressClassName: weir\n");
    if !secret.is_empty() {
        writeln!(yaml, "  tls:\n  - secretName: {secret}").unwrap();
        if !host.is_empty() {
            writeln!(yaml, "    hosts: [{}]", quoted(host)).unwrap();
        }
    }
    yaml.push_str("  rules:\n  - ");
    if !host.is_empty() {
        write!(yaml, "host: {}\n    ", quoted(host)).unwrap();
    }
    yaml.push_str("http:\n      paths:\n");
    for (path, kind, service) in paths {
        write!(
            yaml,
            "      - path: {}\n        pathType: {kind}\n        backend: {{service: {{name: {service}, port: {{number: 80}}}}}}\n",
            quoted(path)
        )
        .unwrap();
    }
    yaml + "---\n"
}

/// The IngressClass and the GatewayClass that name Weir.
pub fn classes() -> String {
    "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata:\n  name: weir\nspec:\n  controller: \
     weir.dev/ingress-controller\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata:\n  name: \
     weir\nspec:\n  controllerName: weir.dev/gateway-controller\n---\n"
        .to_owned()
}

/// A Gateway with an HTTP listener on port 80, and an HTTPS one on 443 if a Secret is named.
pub fn gateway(name: &str, secret: &str) -> String {
    let mut yaml = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  name: {name}\nspec:\n  gatewayClassName: weir\n  \
         listeners:\n  - {{name: http, port: 80, protocol: HTTP}}\n"
    );
    if !secret.is_empty() {
        writeln!(
            yaml,
            "  - {{name: https, port: 443, protocol: HTTPS, tls: {{mode: Terminate, certificateRefs: [{{name: {secret}}}]}}}}"
        )
        .unwrap();
    }
    yaml + "---\n"
}

/// An HTTPRoute at one host of a Gateway; `rules` is the YAML of the list, indented by two.
pub fn http_route(name: &str, gateway: &str, host: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: {name}\nspec:\n  parentRefs:\n  \
         - name: {gateway}\n  hostnames: [{}]\n  rules:\n{rules}---\n",
        quoted(host)
    )
}

/// A Secret of type `kubernetes.io/tls`.
pub fn tls_secret(name: &str, leaf: &Leaf) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}\ntype: kubernetes.io/tls\ndata:\n  tls.crt: {}\n  tls.key: {}\n---\n",
        base64(leaf.certificate_pem.as_bytes()),
        base64(leaf.key_pem.as_bytes())
    )
}

/// RFC 4648 section 4.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().enumerate().fold(0u32, |bits, (at, &byte)| bits | u32::from(byte) << (16 - 8 * at));
        for digit in 0..4 {
            let symbol = if digit <= chunk.len() { ALPHABET[(bits >> (18 - 6 * digit) & 63) as usize] } else { b'=' };
            text.push(char::from(symbol));
        }
    }
    text
}

#[test]
fn base64_is_that_of_the_rfc() {
    let encoded: Vec<String> =
        ["", "f", "fo", "foo", "foob", "fooba", "foobar"].iter().map(|text| base64(text.as_bytes())).collect();
    assert_eq!(encoded, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"]);
}

/// A double-quoted YAML scalar.
pub fn quoted(text: impl Display) -> String {
    let mut quoted = String::from("\"");
    for character in text.to_string().chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            other => quoted.push(other),
        }
    }
    quoted + "\""
}
