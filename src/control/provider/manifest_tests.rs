use std::path::Path;
use std::sync::Arc;

use super::*;

fn read(text: &str) -> Parsed {
    parse(&Arc::from(Path::new("a.yaml")), text)
}

fn names(parsed: &Parsed) -> Vec<String> {
    parsed.objects.iter().map(|located| located.object.reference().to_string()).collect()
}

fn shown(parsed: &Parsed) -> Vec<String> {
    parsed.problems.iter().map(|problem| problem.to_string()).collect()
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  ports: [{port: 80}]\n";

#[test]
fn several_documents_with_comments_directives_and_empty_ones_are_read() {
    let text = format!(
        "%YAML 1.2\n# head\n---\n---\n# Source: shop/templates/a.yaml\n{SERVICE}---\n# nothing\n--- # other\nkind: \"Secret\" # quoted\napiVersion: v1\nmetadata:\n  name: s\n  namespace: shop\n...\n---\n{{apiVersion: v1, kind: ConfigMap, metadata: {{name: flow}}}}\n"
    );
    let parsed = read(&text);
    assert_eq!(shown(&parsed), Vec::<String>::new());
    assert_eq!(names(&parsed), ["Service default/web", "Secret shop/s", "ConfigMap default/flow"]);
    let lines: Vec<u32> = parsed.objects.iter().map(|located| located.line).collect();
    assert_eq!(lines, [6, 14, 21]);
}

#[test]
fn lists_give_their_items_with_their_lines() {
    let parsed = read(
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: a}\n- apiVersion: v1\n  kind: Secret\n  metadata: {name: b}\n- apiVersion: apps/v1\n  kind: Deployment\n  metadata: {name: d}\n",
    );
    assert_eq!(names(&parsed), ["Service default/a", "Secret default/b"]);
    assert_eq!(parsed.objects.iter().map(|l| l.line).collect::<Vec<_>>(), [4, 7]);
    assert_eq!(shown(&parsed), ["note: a.yaml:10: Deployment d is ignored: Weir does not read this kind"]);
}

#[test]
fn items_of_a_typed_list_need_no_kind() {
    let parsed = read(
        "{\"apiVersion\":\"discovery.k8s.io/v1\",\"kind\":\"EndpointSliceList\",\"items\":[{\"metadata\":{\"name\":\"a\"},\"addressType\":\"IPv4\",\"endpoints\":[]}]}",
    );
    assert_eq!(names(&parsed), ["EndpointSlice default/a"]);
}

#[test]
fn string_data_of_a_secret_is_merged_over_data() {
    let parsed =
        read("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: YQ==, b: Yg==}\nstringData: {b: new}\n");
    let Object::Secret(secret) = &parsed.objects[0].object else { panic!("{parsed:?}") };
    let data = secret.data.as_ref().unwrap();
    assert_eq!((data["a"].0.as_slice(), data["b"].0.as_slice()), (&b"a"[..], &b"new"[..]));
    assert!(secret.string_data.is_none());
}

#[test]
fn cluster_kinds_have_no_namespace() {
    let parsed = read(
        "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: weir, namespace: x}\n---\napiVersion: gateway.networking.k8s.io/v1beta1\nkind: GatewayClass\nmetadata: {name: weir}\nspec: {controllerName: weir.dev/gateway}\n",
    );
    assert_eq!(names(&parsed), ["IngressClass weir", "GatewayClass weir"]);
}

#[test]
fn a_bad_document_harms_only_itself() {
    let bad = "apiVersion: v1\nkind: Service\nmetadata:\n  name: bad\nspec:\n  ports:\n  - port: eighty\n";
    let parsed = read(&format!("{bad}---\n{SERVICE}"));
    assert_eq!(names(&parsed), ["Service default/web"]);
    assert!(!parsed.broken);
    let problem = &parsed.problems[0];
    assert_eq!((problem.line, problem.column), (7, 11), "{problem}");
    assert_eq!(problem.text, "invalid i32, at `- port: eighty`");
    assert_eq!(problem.object.as_ref().unwrap().to_string(), "Service default/bad");
}

#[test]
fn text_that_is_no_yaml_is_broken_and_its_good_documents_are_still_read() {
    let parsed = read(&format!("{SERVICE}---\napiVersion: v1\nkind: Secret\nmetadata: {{name: x\n"));
    assert!(parsed.broken);
    assert_eq!(names(&parsed), ["Service default/web"]);
    assert_eq!(parsed.problems.len(), 1);
}

#[test]
fn types_are_as_strict_as_an_api_server() {
    for text in [
        "apiVersion: v1\nkind: Service\nmetadata: {name: 123}\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: a, annotations: {weir.dev/active: true}}\n",
        "{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"metadata\":{\"name\":1}}",
    ] {
        let parsed = read(text);
        assert!(parsed.objects.is_empty() && parsed.problems.len() == 1 && !parsed.broken, "{parsed:?}");
    }
}

#[test]
fn what_is_wrong_is_said_with_place_and_fix() {
    let table = [
        (
            "apiVersion: v1\nkind: Service\nmetadata: {}\n",
            "error: a.yaml:1: metadata.name is missing; give the object a name (generateName is for API servers only)",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: A_b}\n",
            "error: a.yaml:1: Service default/A_b: metadata.name \"A_b\" is not a valid name; use at most 253 of a-z, 0-9, '-' and '.', with a letter or digit at both ends",
        ),
        (
            "kind: Service\nmetadata: {name: a}\n",
            "error: a.yaml:1: apiVersion is missing; every object begins with apiVersion and kind; add apiVersion",
        ),
        (
            "apiVersion: v1\nmetadata: {name: a}\n",
            "error: a.yaml:1: kind is missing; every object begins with apiVersion and kind; add kind",
        ),
        (
            "replicas: 3\n",
            "warning: a.yaml:1: this is not a Kubernetes object: it has neither apiVersion nor kind; keep other files outside the manifest folder",
        ),
        (
            "apiVersion: extensions/v1beta1\nkind: Ingress\nmetadata: {name: old}\n",
            "error: a.yaml:1: Ingress old is ignored: apiVersion extensions/v1beta1 is not known; write it as networking.k8s.io/v1",
        ),
        (
            "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: kn}\n",
            "note: a.yaml:1: Service kn is ignored: Weir does not read this kind",
        ),
    ];
    for (text, message) in table {
        assert_eq!(shown(&read(text)), [message], "{text}");
    }
}

#[test]
fn every_kind_of_the_objects_is_read() {
    let rows: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
    assert_eq!(rows, Object::KINDS);
}

#[test]
fn a_large_file_is_read_in_order() {
    let text: String = (0..3000)
        .map(|n| {
            format!("---\napiVersion: v1\nkind: Service\nmetadata:\n  name: s{n}\nspec:\n  ports:\n  - port: 80\n")
        })
        .collect();
    assert!(text.len() > PARALLEL_FROM);
    let parsed = read(&text);
    assert_eq!(parsed.objects.len(), 3000);
    assert!(
        parsed.objects.iter().enumerate().all(|(n, located)| *located.object.reference().name.name == *format!("s{n}"))
    );
}

#[test]
fn every_prefix_of_a_file_is_read_without_panic() {
    let yaml =
        format!("%YAML 1.2\n---\n{SERVICE}...\n--- # é\nkind: List\napiVersion: v1\nitems: [{{kind: Secret}}]\n");
    let json = r#"{"apiVersion":"v1","kind":"List","items":[{"kind":"Secret","metadata":{"name":"é"}}]} {"kind":"#;
    for text in [yaml.as_str(), json] {
        for end in (0..=text.len()).filter(|end| text.is_char_boundary(*end)) {
            let parsed = read(&text[..end]);
            assert!(parsed.objects.len() <= 1, "{parsed:?}");
        }
    }
}
