//! What the targets share: naive readers to compare with, and cuts that follow from the input alone.

use crate::wire::head::Headers;
use crate::wire::parse::HeadLimits;

/// Numbers that follow from the input, so that an input alone reproduces a crash and corpus files are plain text.
pub struct Dice(u64);

impl Dice {
    /// From these bytes (FNV-1a).
    pub fn of(data: &[u8]) -> Self {
        Self(
            data.iter()
                .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)),
        )
    }

    /// A number below `bound`, which is not 0 (splitmix64).
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    /// The input in one to eight pieces, in order.
    pub fn pieces(&mut self, data: &[u8]) -> Vec<Vec<u8>> {
        let mut cuts: Vec<usize> = (0..self.below(8)).map(|_| self.below(data.len() + 1)).collect();
        cuts.extend([0, data.len()]);
        cuts.sort_unstable();
        cuts.windows(2).map(|pair| data[pair[0]..pair[1]].to_vec()).collect()
    }

    /// The defaults, or limits so tight that short inputs reach them.
    pub fn limits(&mut self) -> HeadLimits {
        if self.below(4) == 0 {
            HeadLimits { method: 5, target: 12, block: 96, fields: 4 }
        } else {
            HeadLimits::default()
        }
    }
}

/// Header fields as owned pairs, names in lower case.
pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// The fields of a list.
pub fn pairs(headers: &Headers) -> Pairs {
    headers.iter().map(|field| (field.name.to_ascii_lowercase(), field.value.to_vec())).collect()
}

/// Cuts a head or trailer block that ends with an empty line into fields, without any judgement.
pub fn lines(block: &[u8]) -> Pairs {
    let text = block.strip_suffix(b"\r\n\r\n").unwrap_or(b"");
    split_crlf(text)
        .into_iter()
        .map(|line| {
            let colon = line.iter().position(|byte| *byte == b':').expect("an accepted line has a colon");
            (line[..colon].to_ascii_lowercase(), trim(&line[colon + 1..]).to_vec())
        })
        .collect()
}

/// The lines between CRLFs; none of an empty text.
pub fn split_crlf(text: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.windows(2).position(|pair| pair == b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

fn trim(value: &[u8]) -> &[u8] {
    let blank = |byte: &u8| *byte == b' ' || *byte == b'\t';
    let start = value.iter().position(|byte| !blank(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !blank(byte)).map_or(start, |at| at + 1);
    &value[start..end]
}

/// Whether every CR is followed by LF, every LF follows a CR, and there is no NUL: what must hold of any accepted head.
pub fn has_clean_line_ends(bytes: &[u8]) -> bool {
    bytes.iter().enumerate().all(|(at, byte)| match byte {
        b'\r' => bytes.get(at + 1) == Some(&b'\n'),
        b'\n' => at > 0 && bytes[at - 1] == b'\r',
        byte => *byte != 0,
    })
}

/// Names are tokens (RFC 9110 section 5.6.2); values have no control bytes and no white space around them.
pub fn assert_clean_fields(fields: &Pairs) {
    for (name, value) in fields {
        assert!(!name.is_empty() && name.iter().all(|byte| is_token(*byte)), "a name is no token: {name:?}");
        assert!(value.iter().all(|byte| *byte == b'\t' || *byte >= 0x20 && *byte != 0x7f), "bad value {value:?}");
        assert_eq!(trim(value), value, "white space around a value");
    }
}

/// Whether this byte may stand in a token.
pub fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Decimal digits and nothing else, as a number.
pub fn number(text: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(text).ok()?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}
