//! How long a large folder takes to be read: a hundred thousand endpoints and ten thousand Ingresses. Prints, asserts
//! only that everything was understood.
//!
//! `cargo bench --bench load`

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use weir::control::provider::manifest::{Known, parse, parse_again};

fn main() {
    let (slices, ingresses) = large();
    let file: Arc<Path> = Arc::from(Path::new("large.yaml"));
    let began = Instant::now();
    let first = parse(&file, &slices);
    let after_slices = began.elapsed();
    let second = parse(&file, &ingresses);
    let after_ingresses = began.elapsed() - after_slices;
    assert_eq!((first.objects.len(), second.objects.len()), (1000, 10_000));
    println!("{} MB of EndpointSlices: {after_slices:?}", slices.len() / 1_000_000);
    println!("{} MB of Ingresses: {after_ingresses:?}", ingresses.len() / 1_000_000);
    let known = Known::of(&first.objects);
    let changed = slices.replacen("ready: true", "ready: false", 1);
    let began = Instant::now();
    let again = parse_again(&file, &changed, &known);
    assert_eq!(again.objects.len(), 1000);
    println!("the EndpointSlices again, one endpoint changed: {:?}", began.elapsed());
}

fn large() -> (String, String) {
    let mut slices = String::new();
    for slice in 0..1000 {
        slices.push_str(&format!("---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: s{slice}\n  namespace: shop\n  labels:\n    kubernetes.io/service-name: s{slice}\naddressType: IPv4\nports:\n- name: http\n  port: 8080\n  protocol: TCP\nendpoints:\n"));
        for endpoint in 0..100 {
            slices.push_str(&format!("- addresses:\n  - 10.{}.{}.{endpoint}\n  conditions:\n    ready: true\n    serving: true\n    terminating: false\n  nodeName: node-{endpoint}\n  targetRef:\n    kind: Pod\n    name: s{slice}-{endpoint}\n    namespace: shop\n  zone: a\n", slice / 250, slice % 250));
        }
    }
    let ingresses = (0..10_000).map(|n| format!("---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: i{n}\n  namespace: shop\n  annotations:\n    weir.dev/balance: round-robin\nspec:\n  ingressClassName: weir\n  rules:\n  - host: h{n}.example.com\n    http:\n      paths:\n      - path: /\n        pathType: Prefix\n        backend:\n          service:\n            name: s{}\n            port:\n              number: 80\n", n % 1000)).collect();
    (slices, ingresses)
}
