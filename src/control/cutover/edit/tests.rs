//! Layouts of manifests as people and tools write them; each is compared byte by byte.

use super::*;

fn checkout() -> ObjectName {
    ObjectName::new("shop", "checkout")
}

/// `«…»` marks the value in the text of before; what stands between is what the edit may change.
const LAYOUTS: &[(&str, &str, &str)] = &[
    (
        "plain",
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: checkout\n  namespace: shop\n  annotations:\n    weir.dev/colors: blue=a,green=b\n    weir.dev/active: «blue»\nspec: {}\n",
        "green",
    ),
    (
        "double quotes",
        "kind: Service\nmetadata:\n  namespace: shop\n  name: checkout\n  annotations:\n    weir.dev/active: «\"blue\"»\n",
        "\"green\"",
    ),
    (
        "single quotes",
        "kind: Service\nmetadata:\n  namespace: shop\n  name: checkout\n  annotations:\n    weir.dev/active: «'blue'»\n",
        "'green'",
    ),
    (
        "comment behind the value",
        "kind: Service\nmetadata:\n  namespace: shop\n  name: checkout\n  annotations:\n    weir.dev/active: «blue» # now blue, \"green\" next\n",
        "green",
    ),
    (
        "trailing spaces",
        "kind: Service   \nmetadata:\n  namespace: shop\n  name: checkout\n  annotations:\n    weir.dev/active:   «blue»   \n    other: x  \n",
        "green",
    ),
    (
        "CRLF",
        "kind: Service\r\nmetadata:\r\n  namespace: shop\r\n  name: checkout\r\n  annotations:\r\n    weir.dev/active: «blue»\r\n    other: x\r\n",
        "green",
    ),
    (
        "no newline at the end",
        "kind: Service\nmetadata:\n  namespace: shop\n  name: checkout\n  annotations:\n    weir.dev/active: «blue»",
        "green",
    ),
    (
        "quoted key",
        "kind: Service\nmetadata:\n  namespace: shop\n  name: checkout\n  annotations:\n    \"weir.dev/active\": «blue»\n",
        "green",
    ),
    (
        "flow annotations",
        "kind: Service\nmetadata:\n  namespace: shop\n  name: checkout\n  annotations: {weir.dev/colors: \"blue=a,green=b\", weir.dev/active: «blue»}\n",
        "green",
    ),
    (
        "flow document",
        "{kind: Service, metadata: {namespace: shop, name: checkout, annotations: {weir.dev/active: «blue», x: y}}}\n",
        "green",
    ),
    (
        "flow over lines",
        "kind: Service\nmetadata: {\n  namespace: shop, name: checkout,\n  annotations: {\n    weir.dev/active: «'blue'», # c\n  },\n}\n",
        "'green'",
    ),
    (
        "JSON",
        "{\n  \"kind\": \"Service\",\n  \"metadata\": {\n    \"name\": \"checkout\", \"namespace\": \"shop\",\n    \"annotations\": {\"weir.dev/active\": «\"blue\"», \"a\": \"b\"}\n  }\n}\n",
        "\"green\"",
    ),
    (
        "JSON in one line",
        "{\"kind\":\"Service\",\"metadata\":{\"name\":\"checkout\",\"namespace\":\"shop\",\"annotations\":{\"weir.dev/active\":«\"blue\"»}}}",
        "\"green\"",
    ),
    (
        "JSON with tabs",
        "{\n\t\"kind\": \"Service\",\n\t\"metadata\": {\n\t\t\"name\": \"checkout\",\n\t\t\"namespace\": \"shop\",\n\t\t\"annotations\": {\n\t\t\t\"weir.dev/active\": «\"blue\"»\n\t\t}\n\t}\n}\n",
        "\"green\"",
    ),
    (
        "JSON with an escape",
        "{\"kind\":\"Service\",\"metadata\":{\"name\":\"checkout\",\"namespace\":\"shop\",\"annotations\":{\"weir.dev/active\":«\"bl\\u0075e\"»}}}\n",
        "\"green\"",
    ),
    (
        "second document",
        "kind: Service\nmetadata:\n  namespace: shop\n  name: other\n  annotations:\n    weir.dev/active: blue\n---\nkind: Service\nmetadata:\n  namespace: shop\n  name: checkout\n  annotations:\n    weir.dev/active: «blue»\n---\nkind: Service\nmetadata:\n  namespace: shop\n  name: third\n  annotations:\n    weir.dev/active: blue\n",
        "green",
    ),
    (
        "documents with comments, directives and an end marker",
        "# weir.dev/active: blue\n--- # first\nkind: ConfigMap\nmetadata: {name: x}\n...\n# between\n---\n# the shop\nkind: Service\nmetadata:\n  namespace: shop\n  name: checkout\n  annotations:\n    # the switch\n    weir.dev/active: «blue»\n...\n",
        "green",
    ),
    (
        "beside a document that cannot be read",
        "kind: [Service\n  oops\n---\nkind: Service\nmetadata:\n  namespace: shop\n  name: checkout\n  annotations:\n    weir.dev/active: «blue»\n",
        "green",
    ),
    (
        "List",
        "apiVersion: v1\nkind: List\nitems:\n- kind: Service\n  metadata:\n    namespace: shop\n    name: other\n    annotations: {weir.dev/active: blue}\n- kind: Service\n  metadata:\n    namespace: shop\n    name: checkout\n    annotations:\n      weir.dev/active: «\"blue\"»\n",
        "\"green\"",
    ),
    (
        "JSON List",
        "{\"kind\":\"List\",\"items\":[{\"kind\":\"Service\",\"metadata\":{\"name\":\"checkout\",\"namespace\":\"shop\",\"annotations\":{\"weir.dev/active\":«\"blue\"»}}},{\"kind\":\"Service\",\"metadata\":{\"name\":\"checkout\",\"annotations\":{\"weir.dev/active\":\"blue\"}}}]}\n",
        "\"green\"",
    ),
    (
        "the same words elsewhere",
        "kind: Service\nmetadata:\n  namespace: shop\n  name: checkout\n  labels:\n    weir.dev/active: blue\n  annotations:\n    note: |\n      weir.dev/active: blue\n    weir.dev/active: «blue»\n    weir.dev/preview: cookie=blue\n",
        "green",
    ),
    (
        "letters of more than one byte before it",
        "# Größe — 青い\nkind: Service\nmetadata:\n  namespace: shop\n  name: checkout\n  annotations:\n    owner: Zoë 🦀\n    weir.dev/active: «blue»\n",
        "green",
    ),
    (
        "value on the next line",
        "kind: Service\nmetadata:\n  namespace: shop\n  name: checkout\n  annotations:\n    weir.dev/active:\n      «blue»\n    x: y\n",
        "green",
    ),
    (
        "annotations at the indentation of their parent's items",
        "items:\n  -   kind: Service\n      metadata:\n        annotations:\n          weir.dev/active: «blue»\n        name: checkout\n        namespace: shop\nkind: List\n",
        "green",
    ),
    (
        "kind last and blank lines",
        "\n\nmetadata:\n\n  annotations:\n\n    weir.dev/active: «blue»\n\n  name: checkout\n  namespace: shop\n\nkind: Service\n",
        "green",
    ),
    (
        "folded block of one line",
        "kind: Service\nmetadata:\n  namespace: shop\n  name: checkout\n  annotations:\n    weir.dev/active: >-\n      «blue»\n",
        "green",
    ),
    (
        "byte order mark",
        "\u{feff}kind: Service\nmetadata:\n  namespace: shop\n  name: checkout\n  annotations:\n    weir.dev/active: «blue»\n",
        "green",
    ),
];

#[test]
fn only_the_value_changes_in_every_layout() {
    assert!(LAYOUTS.len() >= 20);
    for (layout, marked, token) in LAYOUTS {
        let (head, rest) = marked.split_once('«').unwrap();
        let (_, tail) = rest.split_once('»').unwrap();
        let text = marked.replace(['«', '»'], "");
        let edit = edit(&text, &checkout(), "green").unwrap_or_else(|error| panic!("{layout}: {error}"));
        assert_eq!(edit.text, format!("{head}{token}{tail}"), "{layout}");
        assert_eq!(edit.before.as_deref(), Some("blue"), "{layout}");
        let back = super::edit(&edit.text, &checkout(), "blue").unwrap();
        if !text.contains("\\u0075") {
            assert_eq!(back.text, text, "{layout}: there and back is where it was");
        }
    }
}

#[test]
fn missing_annotation_is_added_as_one_line_below_the_colors() {
    let head = "kind: Service\nmetadata:\n  namespace: shop\n  name: checkout\n  annotations:\n";
    for (colors, added, tail) in [
        ("    weir.dev/colors: blue=a,green=b\n", "    weir.dev/active: green\n", "    x: y\n"),
        ("    weir.dev/colors: \"blue=a,green=b\" # two\n", "    weir.dev/active: green\n", ""),
        ("      'weir.dev/colors':  'blue=a,green=b'  \r\n", "      weir.dev/active: green\r\n", "      x: y\r\n"),
        ("    weir.dev/colors: blue=a,green=b", "\n    weir.dev/active: green", ""),
    ] {
        let edit = edit(&format!("{head}{colors}{tail}"), &checkout(), "green").unwrap();
        assert_eq!(edit, Edit { text: format!("{head}{colors}{added}{tail}"), before: None });
    }
}

#[test]
fn what_cannot_be_changed_in_place_is_said_and_left_alone() {
    let service = |annotations: &str| {
        format!("kind: Service\nmetadata:\n  namespace: shop\n  name: checkout\n  annotations:\n{annotations}")
    };
    for (annotations, said) in [
        ("    weir.dev/active: |\n      blue\n", "cannot be changed in place"),
        ("    weir.dev/active: &color blue\n    x: *color\n", "cannot be changed in place"),
        ("    x: &color blue\n    weir.dev/active: *color\n", "cannot be changed in place"),
        ("    x: y\n", "add one, for example weir.dev/colors: blue=web-v1,green=web-v2"),
        (
            "    weir.dev/colors: >-\n      blue=a,green=b\n",
            "add the line weir.dev/active: green below weir.dev/colors",
        ),
        ("    weir.dev/colors: blue=a,\n      green=b\n", "by hand"),
    ] {
        let error = edit(&service(annotations), &checkout(), "green").unwrap_err().to_string();
        assert!(error.contains(said), "{annotations}: {error}");
    }
    let flow = "{kind: Service, metadata: {namespace: shop, name: checkout, annotations: {weir.dev/colors: \"a=b\"}}}";
    let error = edit(flow, &checkout(), "green").unwrap_err().to_string();
    assert!(error.contains("add the line weir.dev/active: green"), "{error}");
    for color in ["", "Green", "a b", "-x", "x\n", "\"", &"x".repeat(64)] {
        assert!(matches!(edit(flow, &checkout(), color), Err(EditError::NotAColor { .. })), "{color:?}");
    }
}

#[test]
fn plain_word_that_is_no_text_is_quoted() {
    let text = "kind: Service\nmetadata:\n  name: web\n  annotations:\n    weir.dev/active: blue\n";
    for color in ["on", "y", "null", "7", "1e3", "0x1"] {
        let edited = edit(text, &ObjectName::new("default", "web"), color).unwrap().text;
        assert_eq!(edited, text.replace("blue", &format!("\"{color}\"")));
    }
}

#[test]
fn file_is_found_replaced_in_one_step_and_keeps_its_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let nested = folder.path().join("shop");
    fs::create_dir(&nested).unwrap();
    fs::create_dir(folder.path().join(".git")).unwrap();
    let text = "kind: Service\nmetadata: {name: checkout, namespace: shop, annotations: {weir.dev/active: blue}}\n";
    let file = nested.join("checkout.yaml");
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    fs::write(folder.path().join(".git/old.yaml"), text).unwrap();
    fs::write(folder.path().join("notes.txt"), text).unwrap();
    fs::write(folder.path().join("broken.yaml"), [0xff, 0xfe]).unwrap();

    let edited = set_active(folder.path(), &checkout(), "green").unwrap();
    assert_eq!(edited, Edited { file: file.clone(), before: Some("blue".to_owned()), changed: true });
    assert_eq!(fs::read_to_string(&file).unwrap(), text.replace("blue", "green"));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(fs::read_dir(&nested).unwrap().count(), 1, "nothing is left behind");
    assert!(!set_active(folder.path(), &checkout(), "green").unwrap().changed);

    let link = folder.path().join("link.yaml");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    set_active(&link, &checkout(), "blue").unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    let error = set_active(folder.path(), &checkout(), "green").unwrap_err();
    assert!(matches!(error, EditError::Ambiguous { .. }), "{error}");
    let error = set_active(folder.path(), &ObjectName::new("shop", "cart"), "green").unwrap_err();
    assert!(matches!(error, EditError::NotFound { .. }), "{error}");
}
