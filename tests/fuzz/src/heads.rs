//! Heads of requests and responses: what is accepted is what a naive reader sees, and means the same when written again.

use crate::check::{Dice, Pairs, assert_clean_fields, has_clean_line_ends, is_token, lines, number, pairs};
use crate::fault::{Blame, Fault};
use crate::wire::head::{RequestHead, ResponseHead, Version};
use crate::wire::parse::{self, Framing, RequestMeta};
use crate::wire::pump::Out;

/// Fields that become part of the message's description.
const TAKEN: [&[u8]; 4] = [b"host", b"content-length", b"transfer-encoding", b"expect"];

/// One request head.
pub fn request_head(data: &[u8]) {
    let mut dice = Dice::of(data);
    let limits = dice.limits();
    let mut head = RequestHead::default();
    let outcome = parse::request(data, &limits, &mut head);
    let cut = dice.below(data.len() + 1);
    let of_prefix = parse::request(&data[..cut], &limits, &mut RequestHead::default());
    let meta = match outcome {
        Err(fault) => {
            assert_eq!(fault.blame(), Blame::Client);
            assert!(!matches!(of_prefix, Ok(Some(_))), "more bytes turn an accepted head into {fault:?}");
            return;
        }
        Ok(None) => {
            assert_eq!(of_prefix, Ok(None), "a part of an unfinished head is not unfinished");
            return;
        }
        Ok(Some(meta)) => meta,
    };
    assert_eq!(of_prefix, Ok((cut >= meta.length).then_some(meta)), "the answer depends on where bytes are cut");

    let text = &data[..meta.length];
    assert!(text.ends_with(b"\r\n\r\n") && has_clean_line_ends(text));
    let start = text.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).expect("there is a request line");
    let line_end = start + text[start..].windows(2).position(|pair| pair == b"\r\n").expect("the line ends");
    let words: Vec<&[u8]> = text[start..line_end].split(|byte| *byte == b' ').collect();
    let [method, target, version] = words[..] else { panic!("a request line of {} words", words.len()) };
    assert_eq!(method, head.method().as_bytes());
    assert!(method.iter().all(|byte| is_token(*byte)) && method.len() <= limits.method);
    assert!(target.iter().all(|byte| (0x21..=0x7e).contains(byte)) && target.len() <= limits.target);
    assert_eq!(version, head.version.text().as_bytes());
    assert!(head.path() == "*" || head.path().starts_with('/'));
    assert!(!head.path().contains(['?', '#']) && !head.query().unwrap_or("").contains('#'));
    assert_eq!(head.authority().is_empty() || parse::is_authority(head.authority()), true);

    let all = lines(&text[line_end + 2..]);
    assert!(all.len() <= limits.fields);
    let kept: Pairs = all.iter().filter(|(name, _)| !TAKEN.contains(&&name[..])).cloned().collect();
    assert_eq!(pairs(&head.headers), kept);
    assert_clean_fields(&kept);
    assert_eq!(meta.framing, naive_framing(&all, false));
    assert!(head.version == Version::Http11 || meta.framing != Framing::Chunked);
    assert_eq!(meta.keep_alive, naive_keep_alive(&all, head.version == Version::Http11));
    let hosts: Vec<_> = all.iter().filter(|(name, _)| name == b"host").collect();
    assert!(hosts.len() == 1 || hosts.is_empty() && head.version == Version::Http10);
    for (_, host) in hosts {
        assert_eq!(host.to_ascii_lowercase(), head.authority().as_bytes());
    }

    let mut again = RequestHead::default();
    let written = write_request(&head, &meta);
    let meta_again = parse::request(&written, &Default::default(), &mut again)
        .expect("what was accepted is accepted")
        .expect("and complete");
    assert_eq!(RequestMeta { length: written.len(), ..meta }, meta_again);
    assert_same_request(&head, &again);
}

/// Compares everything that a head says.
pub fn assert_same_request(left: &RequestHead, right: &RequestHead) {
    assert_eq!(left.version, right.version);
    assert_eq!(left.method(), right.method());
    assert_eq!((left.path(), left.query(), left.authority()), (right.path(), right.query(), right.authority()));
    assert_eq!(pairs(&left.headers), pairs(&right.headers));
}

/// Writes a request head from what was understood of it.
pub fn write_request(head: &RequestHead, meta: &RequestMeta) -> Vec<u8> {
    let mut buffer = vec![0; 64 * 1024];
    let mut out = Out::new(&mut buffer);
    put_request(&mut out, head, meta);
    let length = out.written().expect("a head fits");
    buffer.truncate(length);
    buffer
}

/// As [`write_request`], behind what is there.
pub fn put_request(out: &mut Out<'_>, head: &RequestHead, meta: &RequestMeta) {
    out.put(head.method().as_bytes());
    out.put(b" ");
    out.put(head.path().as_bytes());
    if let Some(query) = head.query() {
        out.put(b"?");
        out.put(query.as_bytes());
    }
    out.put(b" ");
    out.put(head.version.text().as_bytes());
    out.put(b"\r\n");
    if !head.authority().is_empty() {
        out.put(b"host: ");
        out.put(head.authority().as_bytes());
        out.put(b"\r\n");
    }
    head.headers.write_to(out);
    if meta.expects_continue {
        out.put(b"expect: 100-continue\r\n");
    }
    put_framing(out, meta.framing);
    out.put(b"\r\n");
}

fn put_framing(out: &mut Out<'_>, framing: Framing) {
    match framing {
        Framing::None | Framing::UntilClose => {}
        Framing::Length(length) => {
            out.put(b"content-length: ");
            out.put_decimal(length);
            out.put(b"\r\n");
        }
        Framing::Chunked => out.put(b"transfer-encoding: chunked\r\n"),
    }
}

/// One response head.
pub fn response_head(data: &[u8]) {
    let mut dice = Dice::of(data);
    let limits = dice.limits();
    let to_head = dice.below(4) == 0;
    let mut head = ResponseHead::default();
    let outcome = parse::response(data, &limits, to_head, &mut head);
    let cut = dice.below(data.len() + 1);
    let of_prefix = parse::response(&data[..cut], &limits, to_head, &mut ResponseHead::default());
    let meta = match outcome {
        Err(fault) => {
            assert_eq!(fault, Fault::UpstreamProtocol);
            assert!(!matches!(of_prefix, Ok(Some(_))), "more bytes turn an accepted head into {fault:?}");
            return;
        }
        Ok(None) => {
            assert_eq!(of_prefix, Ok(None), "a part of an unfinished head is not unfinished");
            return;
        }
        Ok(Some(meta)) => meta,
    };
    assert_eq!(of_prefix, Ok((cut >= meta.length).then_some(meta)), "the answer depends on where bytes are cut");

    let text = &data[..meta.length];
    assert!(text.ends_with(b"\r\n\r\n") && has_clean_line_ends(text) && text.len() <= limits.block);
    let start = text.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).expect("there is a status line");
    let line_end = start + text[start..].windows(2).position(|pair| pair == b"\r\n").expect("the line ends");
    let line = &text[start..line_end];
    let is_11 = line.starts_with(b"HTTP/1.1 ");
    assert!(is_11 || line.starts_with(b"HTTP/1.0 "));
    assert_eq!(number(&line[9..12]), Some(u64::from(head.status)));
    assert!((100..=599).contains(&head.status) && matches!(line.get(12), None | Some(b' ')));

    let all = lines(&text[line_end + 2..]);
    assert!(all.len() <= limits.fields);
    let kept: Pairs = all.iter().filter(|(name, _)| !TAKEN[1..3].contains(&&name[..])).cloned().collect();
    assert_eq!(pairs(&head.headers), kept);
    assert_clean_fields(&kept);
    let bodiless = to_head || head.status < 200 || head.status == 204 || head.status == 304;
    let framing = naive_framing(&all, true);
    assert_eq!(meta.framing, if bodiless { Framing::None } else { framing });
    assert!(is_11 || framing != Framing::Chunked);
    assert_eq!(meta.keep_alive, naive_keep_alive(&all, is_11) && meta.framing != Framing::UntilClose);

    let mut buffer = vec![0; 64 * 1024];
    let mut out = Out::new(&mut buffer);
    out.put(if is_11 { b"HTTP/1.1 " } else { b"HTTP/1.0 " });
    out.put_decimal(u64::from(head.status));
    out.put(b" \r\n");
    head.headers.write_to(&mut out);
    match meta.content_length {
        Some(length) => put_framing(&mut out, Framing::Length(length)),
        None => put_framing(&mut out, framing),
    }
    out.put(b"\r\n");
    let length = out.written().expect("a head fits");
    let mut again = ResponseHead::default();
    let meta_again = parse::response(&buffer[..length], &Default::default(), to_head, &mut again)
        .expect("what was accepted is accepted")
        .expect("and complete");
    assert_eq!(parse::ResponseMeta { length, ..meta }, meta_again);
    assert_eq!((head.status, pairs(&head.headers)), (again.status, pairs(&again.headers)));
}

/// Whether the connection persists after a message with these fields (RFC 9112 section 9.3).
fn naive_keep_alive(fields: &Pairs, is_11: bool) -> bool {
    let options: Vec<String> = fields
        .iter()
        .filter(|(name, _)| name == b"connection")
        .flat_map(|(_, value)| value.split(|byte| *byte == b','))
        .map(|option| String::from_utf8_lossy(option).trim_matches([' ', '\t']).to_ascii_lowercase())
        .collect();
    let has = |wanted: &str| options.iter().any(|option| option == wanted);
    !has("close") && (is_11 || has("keep-alive"))
}

/// The framing that these fields announce. To be asked only about accepted heads: a doubt is a failure.
fn naive_framing(fields: &Pairs, is_response: bool) -> Framing {
    let values = |wanted: &[u8]| -> Vec<&[u8]> {
        fields.iter().filter(|(name, _)| name == wanted).map(|(_, value)| &value[..]).collect()
    };
    let (lengths, codings) = (values(b"content-length"), values(b"transfer-encoding"));
    match (&lengths[..], &codings[..]) {
        ([], []) if is_response => Framing::UntilClose,
        ([], []) => Framing::None,
        ([], [coding]) => {
            assert!(coding.eq_ignore_ascii_case(b"chunked"));
            Framing::Chunked
        }
        ([length], []) => match number(length).expect("a decimal number") {
            0 => Framing::None,
            length => Framing::Length(length),
        },
        _ => panic!("accepted in spite of {lengths:?} and {codings:?}"),
    }
}
