//! The text of one file becomes objects.
//!
//! Invariant: what is accepted here is what an API server would accept, completed as it would complete it (namespace
//! `default`, `stringData` merged into `data`), and one bad document harms only itself. Speed matters: a hundred thousand
//! endpoints arrive as text, so a document is read straight into its type, and documents of a large file in parallel.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use gateway_api::apis::experimental::httproutes::HttpRoute as HTTPRoute;
use gateway_api::apis::standard::backendtlspolicies::BackendTlsPolicy as BackendTLSPolicy;
use gateway_api::apis::standard::gatewayclasses::GatewayClass;
use gateway_api::apis::standard::gateways::Gateway;
use gateway_api::apis::standard::grpcroutes::GrpcRoute as GRPCRoute;
use gateway_api::apis::standard::listenersets::ListenerSet;
use gateway_api::apis::standard::referencegrants::ReferenceGrant;
use gateway_api::apis::standard::tlsroutes::TlsRoute as TLSRoute;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::parallel_map;
use super::text::{Document, count_lines, fingerprint, sniff, split_yaml};
use crate::control::translate::Object;
use crate::control::translate::stream_objects::{TCPRoute, UDPRoute};
use crate::model::{ObjectName, ObjectRef, Severity};

/// A file larger than this (bytes) is read on several threads.
const PARALLEL_FROM: usize = 128 * 1024;

/// The content of one file.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    /// What could be read, in the order of the file.
    pub objects: Vec<Located>,
    /// What could not, or is ignored.
    pub problems: Vec<Problem>,
    /// Whether the text is no YAML or JSON somewhere. What `objects` holds may then be half of what was meant.
    pub broken: bool,
}

/// An object and where it is written.
#[derive(Clone, Debug)]
pub struct Located {
    /// The object, completed as an API server would.
    pub object: Object,
    /// The file.
    pub file: Arc<Path>,
    /// Which document of the file, from 0.
    pub document: u32,
    /// The line of its first key, from 1.
    pub line: u32,
    /// A hash of its text; `None` for an element of a list or of a JSON file, which are always read again.
    pub(super) print: Option<u64>,
}

/// Objects of the same file, read before: a document whose text did not change is not read again.
#[derive(Default)]
pub struct Known {
    objects: HashMap<u64, Object>,
}

impl Known {
    /// Remembers these.
    pub fn of(objects: &[Located]) -> Self {
        Self { objects: objects.iter().filter_map(|at| Some((at.print?, at.object.clone()))).collect() }
    }
}

/// Something in a file that its owner should know.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Problem {
    /// The file.
    pub file: Arc<Path>,
    /// The line, from 1; 0 for the whole file.
    pub line: u32,
    /// The column, from 1; 0 for the whole line.
    pub column: u32,
    /// A note changes nothing; a warning means that something is ignored that looks meant; an error, that an object or
    /// the file is not used as it stands.
    pub severity: Severity,
    /// The object, when its kind is understood and its name could be read.
    pub object: Option<ObjectRef>,
    /// What is wrong.
    pub text: String,
    /// What would be right; may be empty.
    pub fix: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity, self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
            if self.column > 0 {
                write!(f, ":{}", self.column)?;
            }
        }
        if let Some(object) = &self.object {
            write!(f, ": {object}")?;
        }
        write!(f, ": {}", self.text)?;
        if !self.fix.is_empty() {
            write!(f, "; {}", self.fix)?;
        }
        Ok(())
    }
}

/// Reads the text of one file. JSON is taken as JSON whatever the file's name; everything else is YAML.
pub fn parse(file: &Arc<Path>, text: &str) -> Parsed {
    parse_again(file, text, &Known::default())
}

/// The same, faster: of a large file in which one document changed, only that one is read.
pub fn parse_again(file: &Arc<Path>, text: &str, known: &Known) -> Parsed {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let reader = Reader { file, known };
    if text.trim_start().starts_with(['{', '['])
        && let Some(parsed) = reader.json(text)
    {
        return parsed;
    }
    reader.yaml(text)
}

// ---- the kinds -------------------------------------------------------------------------------------------------------

/// How a kind is read.
struct Kind {
    name: &'static str,
    /// Every `apiVersion` under which it has the shape that Weir knows.
    versions: &'static [&'static str],
    namespaced: bool,
    yaml: fn(&str) -> Result<Object, Failure>,
    json: fn(&str) -> Result<Object, Failure>,
    value: fn(serde_json::Value) -> Result<Object, Failure>,
}

macro_rules! kinds {
    ($($kind:ident $versions:expr, $namespaced:literal;)*) => {
        /// One row per kind of [`Object`].
        static KINDS: &[Kind] = &[$(Kind {
            name: stringify!($kind),
            versions: &$versions,
            namespaced: $namespaced,
            yaml: |text| from_yaml::<$kind>(text).map_err(Failure::from).and_then(complete),
            json: |text| serde_json::from_str::<$kind>(text).map_err(Failure::from).and_then(complete),
            value: |value| serde_json::from_value::<$kind>(value).map_err(Failure::from).and_then(complete),
        },)*];

        $(impl Complete for $kind {
            const NAMESPACED: bool = $namespaced;
            fn metadata(&mut self) -> &mut ObjectMeta { &mut self.metadata }
            fn finish(mut self) -> Object { finish_specially(&mut self); Object::$kind(Arc::new(self)) }
        })*

        /// Whether two objects of the same name say the same.
        pub fn same(a: &Object, b: &Object) -> bool {
            match (a, b) {
                $((Object::$kind(a), Object::$kind(b)) => Arc::ptr_eq(a, b) || a == b,)*
                _ => false,
            }
        }
    };
}

kinds! {
    Service ["v1"], true;
    EndpointSlice ["discovery.k8s.io/v1"], true;
    Endpoints ["v1"], true;
    Secret ["v1"], true;
    ConfigMap ["v1"], true;
    Ingress ["networking.k8s.io/v1"], true;
    IngressClass ["networking.k8s.io/v1"], false;
    GatewayClass ["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"], false;
    Gateway ["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"], true;
    HTTPRoute ["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"], true;
    GRPCRoute ["gateway.networking.k8s.io/v1"], true;
    TLSRoute ["gateway.networking.k8s.io/v1"], true;
    TCPRoute ["gateway.networking.k8s.io/v1"], true;
    UDPRoute ["gateway.networking.k8s.io/v1"], true;
    ListenerSet ["gateway.networking.k8s.io/v1"], true;
    BackendTLSPolicy ["gateway.networking.k8s.io/v1"], true;
    ReferenceGrant ["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"], true;
    Namespace ["v1"], false;
}

/// An object that has metadata to complete.
trait Complete: Sized + 'static {
    const NAMESPACED: bool;
    fn metadata(&mut self) -> &mut ObjectMeta;
    fn finish(self) -> Object;
}

/// Does what an API server does on the way in.
fn complete<T: Complete>(mut object: T) -> Result<Object, Failure> {
    let metadata = object.metadata();
    // Who wrote which field is of no use here and is most of the text of a `kubectl get -o yaml`.
    metadata.managed_fields = None;
    if T::NAMESPACED {
        let namespace = metadata.namespace.get_or_insert_default();
        if namespace.is_empty() {
            namespace.push_str("default");
        }
        check_name("metadata.namespace", namespace)?;
    } else {
        metadata.namespace = None;
    }
    match metadata.name.as_deref() {
        None | Some("") => Err(Failure::say(
            "metadata.name is missing",
            "give the object a name (generateName is for API servers only)",
        )),
        Some(name) => check_name("metadata.name", name),
    }?;
    check_required(&object)?;
    Ok(object.finish())
}

/// Fields without which an API server takes no Ingress. Their absence is how a file looks that is still being written.
fn check_required(object: &dyn std::any::Any) -> Result<(), Failure> {
    let Some(spec) = object.downcast_ref::<Ingress>().and_then(|ingress| ingress.spec.as_ref()) else { return Ok(()) };
    for (rule_at, rule) in spec.rules.iter().flatten().enumerate() {
        for (at, path) in rule.http.iter().flat_map(|http| &http.paths).enumerate() {
            let missing = if path.backend.service.is_none() && path.backend.resource.is_none() {
                "backend"
            } else if path.path_type.is_empty() {
                "pathType"
            } else {
                continue;
            };
            let field = format!("spec.rules[{rule_at}].http.paths[{at}].{missing}");
            let fix = match missing {
                "backend" => "say where the path leads: backend: {service: {name: NAME, port: {number: PORT}}}",
                _ => "write Prefix, Exact or ImplementationSpecific",
            };
            return Err(Failure::say(format!("{field} is missing"), fix));
        }
    }
    Ok(())
}

/// RFC 1123 subdomain, as the API server asks of names (`IsDNS1123Subdomain`).
fn check_name(field: &str, name: &str) -> Result<(), Failure> {
    let legal = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if name.len() <= 253 && name.split('.').all(legal) {
        return Ok(());
    }
    Err(Failure::say(
        format!("{field} {name:?} is not a valid name"),
        "use at most 253 of a-z, 0-9, '-' and '.', with a letter or digit at both ends",
    ))
}

/// The kinds whose written form differs from the stored one.
fn finish_specially(object: &mut dyn std::any::Any) {
    if let Some(secret) = object.downcast_mut::<Secret>()
        && let Some(text) = secret.string_data.take()
    {
        let data = secret.data.get_or_insert_default();
        data.extend(text.into_iter().map(|(key, value)| (key, k8s_openapi::ByteString(value.into_bytes()))));
    }
}

enum Lookup {
    Known(&'static Kind),
    /// The kind is known, the version is not.
    OtherVersion(&'static Kind),
    Unknown,
}

fn lookup(api_version: &str, kind: &str) -> Lookup {
    let group = |version: &str| version.rsplit_once('/').map_or(String::new(), |(group, _)| group.to_owned());
    let Some(known) = KINDS.iter().find(|known| known.name == kind) else { return Lookup::Unknown };
    if known.versions.contains(&api_version) {
        return Lookup::Known(known);
    }
    // The Ingress of old lived in another group.
    let same_group = group(api_version) == group(known.versions[0]);
    if same_group || (kind == "Ingress" && api_version.starts_with("extensions/")) {
        Lookup::OtherVersion(known)
    } else {
        Lookup::Unknown
    }
}

// ---- reading one file ------------------------------------------------------------------------------------------------

/// Why a document is no object. Lines and columns count from 1 within the document; 0 is unknown.
struct Failure {
    line: u32,
    column: u32,
    text: String,
    fix: String,
}

impl Failure {
    fn say(text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { line: 0, column: 0, text: text.into(), fix: fix.into() }
    }
}

impl From<serde_saphyr::Error> for Failure {
    fn from(error: serde_saphyr::Error) -> Self {
        let (line, column) = error.location().map_or((0, 0), |at| (at.line() as u32, at.column() as u32));
        Self { line, column, text: without_location(&error.to_string()), fix: String::new() }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        let (line, column) = (error.line() as u32, error.column() as u32);
        Self { line, column, text: without_location(&error.to_string()), fix: String::new() }
    }
}

/// Both libraries write the place into their message; it is shown in front instead.
pub(crate) fn without_location(message: &str) -> String {
    let message = message.lines().next().unwrap_or_default();
    let message = match message.strip_prefix("error: ").unwrap_or(message) {
        message if message.starts_with("line ") => message.split_once(": ").map_or(message, |(_, rest)| rest),
        message => message,
    };
    let end = message.rfind(" at line ").unwrap_or(message.len());
    message[..end].trim_end_matches([':', ',']).to_owned()
}

/// As strict about types as an API server: `name: 123` is a number, not a name.
fn yaml_options() -> serde_saphyr::Options {
    // The limits of depth and aliases stay; those of size would refuse what people really deploy.
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: usize::MAX,
            max_nodes: usize::MAX,
            max_total_scalar_bytes: usize::MAX,
        },
        with_snippet: false,
        no_schema: true,
    }
}

fn from_yaml<T: DeserializeOwned>(text: &str) -> Result<T, serde_saphyr::Error> {
    serde_saphyr::from_str_with_options(text, yaml_options())
}

/// What every object has, and nothing else.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Head {
    api_version: Option<String>,
    kind: Option<String>,
    metadata: Option<HeadMeta>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct HeadMeta {
    name: Option<String>,
    namespace: Option<String>,
}

impl Head {
    /// The object's name as far as it can be read.
    fn reference(&self, kind: &Kind) -> Option<ObjectRef> {
        let metadata = self.metadata.as_ref()?;
        let name = metadata.name.as_deref().filter(|name| !name.is_empty())?;
        let namespace = if kind.namespaced { metadata.namespace.as_deref().unwrap_or("default") } else { "" };
        Some(ObjectRef::new(kind.name, ObjectName::new(namespace, name)))
    }

    /// For kinds that Weir does not read.
    fn describe(&self) -> String {
        let kind = self.kind.as_deref().unwrap_or_default();
        match self.metadata.as_ref().and_then(|metadata| metadata.name.as_deref()) {
            Some(name) => format!("{kind} {name}"),
            None => kind.to_owned(),
        }
    }
}

#[derive(Deserialize)]
struct YamlList {
    items: Option<Vec<serde_saphyr::Spanned<serde_json::Value>>>,
}

#[derive(Deserialize)]
struct JsonList {
    items: Option<Vec<serde_json::Value>>,
}

struct Reader<'a> {
    file: &'a Arc<Path>,
    known: &'a Known,
}

impl Reader<'_> {
    fn yaml(&self, text: &str) -> Parsed {
        let documents = split_yaml(text);
        if text.len() < PARALLEL_FROM {
            return join(documents.iter().map(|document| self.yaml_document(*document)));
        }
        join(parallel_map(&documents, |document| self.yaml_document(*document)))
    }

    fn yaml_document(&self, document: Document<'_>) -> Parsed {
        let print = fingerprint(document.text);
        if let Some(object) = self.known.objects.get(&print) {
            return self.one(object.clone(), document, Some(print));
        }
        // Nearly always the two lines that say what it is stand at the margin; then the text is read only once.
        let sniffed = sniff(document.text);
        let head = match sniffed {
            Some((api_version, kind)) => {
                Head { api_version: Some(api_version.to_owned()), kind: Some(kind.to_owned()), metadata: None }
            }
            None => match from_yaml::<Head>(document.text) {
                Ok(head) => head,
                Err(error) => return self.unreadable(document, error),
            },
        };
        let kind = match self.known(&head) {
            Ok(kind) => kind,
            Err(None) => return self.yaml_list(document, &head),
            Err(Some(problem)) => {
                // The name, for the message; and a document that is no YAML is never merely "ignored".
                return match from_yaml::<Head>(document.text) {
                    Ok(head) => self.passed_over(document, &head, problem),
                    Err(error) => self.unreadable(document, error),
                };
            }
        };
        match (kind.yaml)(document.text) {
            Ok(object) => self.one(object, document, Some(print)),
            // Is it no YAML, or YAML with a wrong type in it?
            Err(failure) => match from_yaml::<Head>(document.text) {
                Ok(head) => self.refused(document, head.reference(kind), failure),
                Err(error) if from_yaml::<serde::de::IgnoredAny>(document.text).is_ok() => {
                    self.refused(document, None, error.into())
                }
                Err(error) => self.unreadable(document, error),
            },
        }
    }

    /// Text that is no object at all: either no YAML, or YAML whose `kind` or `metadata` is nonsense.
    fn unreadable(&self, document: Document<'_>, error: serde_saphyr::Error) -> Parsed {
        let failure = Failure::from(error);
        match from_yaml::<serde::de::IgnoredAny>(document.text) {
            Ok(_) => self.refused(document, None, failure),
            Err(error) => Parsed { broken: true, ..self.refused(document, None, error.into()) },
        }
    }

    fn yaml_list(&self, document: Document<'_>, head: &Head) -> Parsed {
        match from_yaml::<YamlList>(document.text) {
            Ok(list) => join(list.items.unwrap_or_default().into_iter().map(|item| {
                let line = document.before + item.referenced.line() as u32;
                self.item(item.value, head, Document { line, text: "", ..document })
            })),
            Err(error) => self.unreadable(document, error),
        }
    }

    /// `None` when the text is not JSON: it may still be YAML in flow style.
    fn json(&self, text: &str) -> Option<Parsed> {
        let mut parsed = Vec::new();
        let mut heads = serde_json::Deserializer::from_str(text).into_iter::<Head>();
        let (mut start, mut index) = (0, 0);
        while let Some(head) = heads.next() {
            let head = head.ok()?;
            let blank = text[start..].len() - text[start..].trim_start().len();
            let slice = &text[start + blank..heads.byte_offset()];
            let before = count_lines(&text[..start + blank]);
            let document = Document { index, text: slice, before, line: before + 1 };
            parsed.push(self.json_document(document, &head));
            start = heads.byte_offset();
            index += 1;
        }
        Some(join(parsed))
    }

    fn json_document(&self, document: Document<'_>, head: &Head) -> Parsed {
        match self.known(head) {
            Ok(kind) => match (kind.json)(document.text) {
                Ok(object) => self.one(object, document, None),
                Err(failure) => self.refused(document, head.reference(kind), failure),
            },
            Err(None) => match serde_json::from_str::<JsonList>(document.text) {
                Ok(list) => join(
                    list.items
                        .unwrap_or_default()
                        .into_iter()
                        .map(|item| self.item(item, head, Document { text: "", ..document })),
                ),
                Err(error) => self.refused(document, None, error.into()),
            },
            Err(Some(problem)) => self.passed_over(document, head, problem),
        }
    }

    /// One element of a list. Elements of a typed list need not repeat their kind.
    fn item(&self, value: serde_json::Value, list: &Head, document: Document<'_>) -> Parsed {
        let mut head = match Head::deserialize(&value) {
            Ok(head) => head,
            Err(error) => return self.refused(document, None, error.into()),
        };
        if let Some(kind) = list.kind.as_deref().and_then(|kind| kind.strip_suffix("List"))
            && !kind.is_empty()
        {
            head.kind.get_or_insert_with(|| kind.to_owned());
            if head.api_version.is_none() {
                head.api_version.clone_from(&list.api_version);
            }
        }
        match self.known(&head) {
            Ok(kind) => match (kind.value)(value) {
                Ok(object) => self.one(object, document, None),
                Err(failure) => self.refused(document, head.reference(kind), failure),
            },
            Err(None) => self.refused(
                document,
                None,
                Failure::say("a list inside a list", "write its items into the outer list"),
            ),
            Err(Some(problem)) => self.passed_over(document, &head, problem),
        }
    }

    /// The kind; or `None` for a list; or why not.
    fn known(&self, head: &Head) -> Result<&'static Kind, Option<NotRead>> {
        let (api_version, kind) = match (head.api_version.as_deref(), head.kind.as_deref()) {
            (None, None) => return Err(Some(NotRead::NoObject)),
            (None, Some(_)) => return Err(Some(NotRead::Missing("apiVersion"))),
            (Some(_), None) => return Err(Some(NotRead::Missing("kind"))),
            (Some(api_version), Some(kind)) => (api_version, kind),
        };
        match lookup(api_version, kind) {
            Lookup::Known(kind) => Ok(kind),
            Lookup::OtherVersion(kind) => Err(Some(NotRead::OtherVersion(kind))),
            Lookup::Unknown if kind.ends_with("List") => Err(None),
            Lookup::Unknown => Err(Some(NotRead::OtherKind)),
        }
    }

    fn passed_over(&self, document: Document<'_>, head: &Head, why: NotRead) -> Parsed {
        let (severity, text, fix) = match why {
            NotRead::OtherKind => {
                (Severity::Note, format!("{} is ignored: Weir does not read this kind", head.describe()), String::new())
            }
            NotRead::NoObject => (
                Severity::Warning,
                "this is not a Kubernetes object: it has neither apiVersion nor kind".to_owned(),
                "keep other files outside the manifest folder".to_owned(),
            ),
            NotRead::Missing(key) => (
                Severity::Error,
                format!("{key} is missing"),
                format!("every object begins with apiVersion and kind; add {key}"),
            ),
            NotRead::OtherVersion(kind) => (
                Severity::Error,
                format!(
                    "{} is ignored: apiVersion {} is not known",
                    head.describe(),
                    head.api_version.as_deref().unwrap_or_default()
                ),
                format!("write it as {}", kind.versions[0]),
            ),
        };
        let problem =
            Problem { file: self.file.clone(), line: document.line, column: 0, severity, object: None, text, fix };
        Parsed { problems: vec![problem], ..Parsed::default() }
    }

    fn one(&self, object: Object, document: Document<'_>, print: Option<u64>) -> Parsed {
        let located = Located { object, file: self.file.clone(), document: document.index, line: document.line, print };
        Parsed { objects: vec![located], ..Parsed::default() }
    }

    fn refused(&self, document: Document<'_>, object: Option<ObjectRef>, failure: Failure) -> Parsed {
        // The libraries name the place, not the key: the line itself does.
        let written = match failure.line {
            0 => None,
            line => document
                .text
                .lines()
                .nth(line as usize - 1)
                .map(str::trim)
                .filter(|line| line.len() <= 120 && !line.is_empty()),
        };
        let text = match written {
            Some(written) => format!("{}, at `{written}`", failure.text),
            None => failure.text,
        };
        let (line, column) = if failure.line == 0 || document.text.is_empty() {
            (document.line, 0)
        } else {
            (document.before + failure.line, failure.column)
        };
        let problem = Problem {
            file: self.file.clone(),
            line,
            column,
            severity: Severity::Error,
            object,
            text,
            fix: failure.fix,
        };
        Parsed { problems: vec![problem], ..Parsed::default() }
    }
}

/// Why a document is not even tried.
#[derive(Clone, Copy)]
enum NotRead {
    OtherKind,
    NoObject,
    Missing(&'static str),
    OtherVersion(&'static Kind),
}

fn join(parts: impl IntoIterator<Item = Parsed>) -> Parsed {
    parts.into_iter().fold(Parsed::default(), |mut all, part| {
        all.objects.extend(part.objects);
        all.problems.extend(part.problems);
        all.broken |= part.broken;
        all
    })
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
