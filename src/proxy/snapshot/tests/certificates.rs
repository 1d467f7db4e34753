use super::*;
use crate::proxy::snapshot::compile;

fn certificate(fingerprint: u64, names: &[&str]) -> Arc<Certificate> {
    let pair =
        rcgen::generate_simple_self_signed(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    Arc::new(Certificate {
        secret: ObjectName::new("shop", names[0]),
        chain_pem: pair.cert.pem().into_bytes().into(),
        key_pem: pair.signing_key.serialize_pem().into_bytes().into(),
        not_after: 1,
        fingerprint,
    })
}

fn https(bindings: &[(HostPattern, &Arc<Certificate>)]) -> Model {
    let certificates = bindings
        .iter()
        .map(|(host, certificate)| CertificateBinding { host: host.clone(), certificate: (*certificate).clone() })
        .collect();
    let entry = Entry { protocol: Protocol::Https, certificates: Arc::new(certificates), ..Entry::default() };
    Model { entries: [(Bind::Https, entry)].into(), ..Model::default() }
}

fn wildcard() -> HostPattern {
    HostPattern::Wildcard { suffix: ".a.test".into(), labels: Labels::One }
}

fn exact(name: &str) -> HostPattern {
    HostPattern::Exact(name.into())
}

#[test]
fn server_name_selects_exact_then_wildcard_then_default() {
    let (one, two, three) =
        (certificate(1, &["x.a.test"]), certificate(2, &["*.a.test"]), certificate(3, &["default.test"]));
    let model = https(&[(exact("x.a.test"), &one), (wildcard(), &two), (HostPattern::Any, &three)]);
    let snapshot = compile(&model, &mut live(), None, 0);
    let table = &snapshot.entries[&Bind::Https].certificates;
    let print = |name: Option<&str>| table.select(name).map(|binding| binding.certificate.fingerprint);
    assert_eq!(print(Some("x.a.test")), Some(1));
    assert_eq!(print(Some("y.a.test")), Some(2));
    assert_eq!(print(Some("y.z.a.test")), Some(3));
    assert_eq!(print(None), Some(3));
    let strict = compile(&https(&[(exact("x.a.test"), &one)]), &mut live(), None, 0);
    assert!(strict.entries[&Bind::Https].certificates.select(Some("y.a.test")).is_none());
}

#[test]
fn connection_covers_only_hosts_of_its_own_binding() {
    let same = certificate(1, &["x.a.test", "*.a.test", "b.test"]);
    let bindings =
        [(exact("x.a.test"), &same), (wildcard(), &same), (exact("b.test"), &same), (HostPattern::Any, &same)];
    let snapshot = compile(&https(&bindings), &mut live(), None, 0);
    let table = &snapshot.entries[&Bind::Https].certificates;
    assert!(table.covers(Some("y.a.test"), "z.a.test"));
    assert!(!table.covers(Some("y.a.test"), "x.a.test"));
    assert!(!table.covers(Some("b.test"), "unknown.test"));
    assert!(table.covers(Some("other.test"), "unknown.test"));
    assert!(!table.covers(Some("other.test"), "b.test"));
    assert!(table.covers(None, "b.test"));
}

#[test]
fn rotated_certificate_is_presented_by_the_resolver_made_before() {
    let (old, new) = (certificate(1, &["x.a.test"]), certificate(2, &["x.a.test"]));
    let mut live = live();
    let first = compile(&https(&[(exact("x.a.test"), &old)]), &mut live, None, 0);
    let resolver = first.entries[&Bind::Https].resolver.clone();
    let again = compile(&https(&[(exact("x.a.test"), &old)]), &mut live, Some(&first), 0);
    assert!(again.serves_as(&first) && again.generation == first.generation);
    let second = compile(&https(&[(exact("x.a.test"), &new)]), &mut live, Some(&first), 0);
    assert_eq!(second.generation, first.generation + 1);
    assert!(Arc::ptr_eq(&second.entries[&Bind::Https].resolver, &resolver));
    let presented = resolver.table().select(Some("x.a.test")).map(|binding| binding.certificate.fingerprint);
    assert_eq!(presented, Some(2));
}

#[test]
fn unusable_certificate_keeps_the_last_good_key_and_the_other_hosts() {
    let (good, other) = (certificate(1, &["x.a.test"]), certificate(2, &["b.test"]));
    let bad = Arc::new(Certificate {
        secret: good.secret.clone(),
        chain_pem: good.chain_pem.clone(),
        key_pem: other.key_pem.clone(),
        not_after: 1,
        fingerprint: 3,
    });
    let mut live = live();
    let first = compile(&https(&[(exact("x.a.test"), &good)]), &mut live, None, 0);
    let second = compile(&https(&[(exact("x.a.test"), &bad), (exact("b.test"), &other)]), &mut live, Some(&first), 0);
    let key = |snapshot: &super::super::Snapshot, name| {
        snapshot.entries[&Bind::Https].certificates.select(Some(name)).map(|binding| binding.key().clone())
    };
    assert!(Arc::ptr_eq(&key(&first, "x.a.test").unwrap(), &key(&second, "x.a.test").unwrap()));
    assert!(key(&second, "b.test").is_some());
}

#[test]
fn one_secret_for_many_hosts_is_parsed_once() {
    let shared = certificate(1, &["*.a.test"]);
    let snapshot = compile(&https(&[(exact("x.a.test"), &shared), (exact("y.a.test"), &shared)]), &mut live(), None, 0);
    let table = &snapshot.entries[&Bind::Https].certificates;
    let key = |name| table.select(Some(name)).unwrap().key().clone();
    assert!(Arc::ptr_eq(&key("x.a.test"), &key("y.a.test")));
}
