//! What one side understood of a byte stream, and how two sides compare.

use std::fmt::Write as _;

/// Header fields: names in lower case, values without white space around them.
pub type Pairs = Vec<(String, Vec<u8>)>;

/// Names that Weir takes out of the field list and writes anew.
const TAKEN: [&str; 4] = ["host", "content-length", "transfer-encoding", "expect"];

/// Names that Weir drops from trailers (RFC 9110 section 6.5.1; RFC 9112 section 7.1.2), from a list of its own.
const NOT_IN_TRAILERS: [&str; 20] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
];

/// How the reading of something came to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// As it should.
    Complete,
    /// The bytes are not acceptable.
    Refused,
    /// The stream ended before it.
    Unfinished,
}

/// One message whose head was accepted.
#[derive(Clone, Debug)]
pub struct Message {
    /// Method, path and query of a request; the status of a response.
    pub start: Vec<String>,
    /// Where a request goes: host and port in lower case.
    pub authority: Option<String>,
    /// All fields, in order.
    pub fields: Pairs,
    /// The body as far as it was read.
    pub body: Vec<u8>,
    /// How the body ended.
    pub end: End,
    /// Trailers.
    pub trailers: Pairs,
}

/// One connection. Only the last message can have a body that is not complete.
#[derive(Clone, Debug)]
pub struct Transcript {
    /// The messages whose head was accepted.
    pub messages: Vec<Message>,
    /// What came of the head after them; complete: there is none.
    pub end: End,
    /// Bytes that were left after the last message, where the side can tell.
    pub left: Option<usize>,
}

impl Transcript {
    /// In a few lines.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        for message in &self.messages {
            let Message { start, authority, body, end, trailers, .. } = message;
            let body = body.escape_ascii();
            writeln!(text, "{start:?} to {authority:?}, body {end:?}: \"{body}\", trailers {trailers:?}").unwrap();
            for (name, value) in &message.fields {
                writeln!(text, "    {name}: {}", value.escape_ascii()).unwrap();
            }
        }
        let left = self.left.map(|left| format!(", {left} bytes left")).unwrap_or_default();
        text + &format!("then {:?}{left}", self.end)
    }
}

/// Who accepted what the other did not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// hyper accepts, Weir refuses.
    OnlyTheirs,
    /// Weir accepts, hyper refuses.
    OnlyOurs,
    /// Both accept and understand something else, or see the end elsewhere.
    Differs,
}

/// The first thing on which two sides do not agree.
#[derive(Clone, Debug)]
pub struct Disagreement {
    /// Which message of the stream.
    pub index: usize,
    /// Of what kind.
    pub kind: Kind,
    /// What it was.
    pub what: String,
}

/// Finds the first disagreement.
pub fn compare(ours: &Transcript, theirs: &Transcript) -> Option<Disagreement> {
    for index in 0.. {
        let found = |kind, what: String| Some(Disagreement { index, kind, what });
        match (ours.messages.get(index), theirs.messages.get(index)) {
            (Some(our), Some(their)) => {
                if let Some(what) = head_difference(our, their) {
                    return found(Kind::Differs, what);
                }
                match (our.end, their.end) {
                    (End::Complete, End::Complete) => {
                        if our.body != their.body {
                            return found(Kind::Differs, "the body".to_owned());
                        }
                        let theirs: Pairs = without(&their.trailers, &NOT_IN_TRAILERS);
                        if grouped(&our.trailers) != grouped(&theirs) {
                            return found(Kind::Differs, format!("trailers {:?} / {theirs:?}", our.trailers));
                        }
                    }
                    (End::Refused, End::Complete) => return found(Kind::OnlyTheirs, "the body".to_owned()),
                    (End::Complete, End::Refused) => return found(Kind::OnlyOurs, "the body".to_owned()),
                    (our, their) if our == End::Complete || their == End::Complete => {
                        return found(Kind::Differs, "the end of the body".to_owned());
                    }
                    // Neither has a whole message; nothing follows.
                    _ => return None,
                }
            }
            (None, Some(_)) => match ours.end {
                End::Refused => return found(Kind::OnlyTheirs, "the head".to_owned()),
                End::Unfinished => return found(Kind::Differs, "the end of the head".to_owned()),
                End::Complete => return closing(index, "hyper sees one more message"),
            },
            (Some(_), None) => match theirs.end {
                End::Refused => return found(Kind::OnlyOurs, "the head".to_owned()),
                End::Unfinished => return found(Kind::Differs, "the end of the head".to_owned()),
                End::Complete => return closing(index, "Weir sees one more message"),
            },
            (None, None) => {
                return match (ours.left, theirs.left) {
                    (Some(our), Some(their)) if our != their => {
                        let index = index.saturating_sub(1);
                        let what = format!("{our} and {their} bytes are left");
                        Some(Disagreement { index, kind: Kind::Differs, what })
                    }
                    _ => None,
                };
            }
        }
    }
    None
}

/// Whether the connection goes on is decided by the message before.
fn closing(index: usize, what: &str) -> Option<Disagreement> {
    Some(Disagreement { index: index.saturating_sub(1), kind: Kind::Differs, what: what.to_owned() })
}

fn head_difference(our: &Message, their: &Message) -> Option<String> {
    if our.start != their.start {
        return Some(format!("start line {:?} / {:?}", our.start, their.start));
    }
    if our.authority != their.authority {
        return Some(format!("authority {:?} / {:?}", our.authority, their.authority));
    }
    let (ours, theirs) = (without(&our.fields, &TAKEN), without(&their.fields, &TAKEN));
    (grouped(&ours) != grouped(&theirs)).then(|| format!("fields {ours:?} / {theirs:?}"))
}

fn without(fields: &Pairs, names: &[&str]) -> Pairs {
    fields.iter().filter(|(name, _)| !names.contains(&name.as_str())).cloned().collect()
}

/// Fields by name, names in the order of their first field, values in order: what `http::HeaderMap` keeps.
fn grouped(fields: &Pairs) -> Vec<(&str, Vec<&[u8]>)> {
    let mut groups: Vec<(&str, Vec<&[u8]>)> = Vec::new();
    for (name, value) in fields {
        match groups.iter_mut().find(|(known, _)| known == name) {
            Some((_, values)) => values.push(value),
            None => groups.push((name, vec![value])),
        }
    }
    groups
}
