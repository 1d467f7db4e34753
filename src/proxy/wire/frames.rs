//! Watches an HTTP/2 connection from below: counts the frames that cost their sender nothing and us something, and says
//! when there are too many of them for the work that is being done.
//!
//! The library above limits some floods and not others (pings, settings, window updates, priorities, resets of streams that
//! were already looked at are without limit there). This is a pure machine over the plain bytes of both directions: it reads
//! the nine bytes at the head of every frame, skips payloads, owns nothing and asks for the time once for all that is
//! read together. The stream below hyper ([`super::stream`]) feeds it and ends the connection; whoever serves counts why.
//!
//! A budget is a leaky bucket per kind of frame. It empties with time and with useful work: every response head that we
//! send, and every KiB of DATA, calls for some control frames of an honest client (flow control, bandwidth probes, cancelled
//! requests). So a client may send as many of them as it likes while it is being served, and few while it is not. A client
//! that gives up on streams it has waited for (deadlines, while a backend stalls) is no flood either: what makes rapid reset
//! an attack is that its streams do not live, and so escape the limit on how many there are at once.

/// Why a connection was ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flood {
    /// RST_STREAM, of young streams or of too many old ones (rapid reset, CVE-2023-44487).
    Reset,
    /// Streams that we had to refuse or reset for the client's errors (CVE-2025-8671).
    ProvokedReset,
    /// PING, and acknowledgements of pings.
    Ping,
    /// SETTINGS.
    Settings,
    /// WINDOW_UPDATE.
    WindowUpdate,
    /// PRIORITY and PRIORITY_UPDATE.
    Priority,
    /// DATA that is empty and not the last.
    EmptyData,
    /// A header block in too many pieces.
    Continuation,
    /// Types that no specification has, or that no client may send.
    Unknown,
    /// The library saw something of the sort before we did.
    Other,
}

impl Flood {
    /// Every kind, in the order of the discriminants.
    pub const ALL: [Flood; 10] = [
        Flood::Reset,
        Flood::ProvokedReset,
        Flood::Ping,
        Flood::Settings,
        Flood::WindowUpdate,
        Flood::Priority,
        Flood::EmptyData,
        Flood::Continuation,
        Flood::Unknown,
        Flood::Other,
    ];

    /// Its name in metrics.
    pub const fn code(self) -> &'static str {
        match self {
            Flood::Reset => "reset",
            Flood::ProvokedReset => "provoked_reset",
            Flood::Ping => "ping",
            Flood::Settings => "settings",
            Flood::WindowUpdate => "window_update",
            Flood::Priority => "priority",
            Flood::EmptyData => "empty_data",
            Flood::Continuation => "continuation",
            Flood::Unknown => "unknown",
            Flood::Other => "other",
        }
    }
}

/// What a kind of frame costs, in points, and what pays for it.
struct Price {
    frame: u32,
    second: u32,
    /// Per response head that we send.
    answer: u32,
    /// Per DATA frame that we send and per KiB in it.
    data: u32,
}

/// By [`Flood`], as far as there is a bucket. With the default of 1000 points: 500 resets and 50 more per second, and so on.
const PRICES: [Price; BUCKETS] = [
    // Browsers cancel a page's requests, a hundred at a time; one that has had an answer has waited for it.
    Price { frame: 2, second: 100, answer: 2, data: 0 },
    // A client may open many streams before it has read our settings.
    Price { frame: 2, second: 20, answer: 1, data: 0 },
    // gRPC measures the bandwidth with a ping per read; keep-alive is every ten seconds at most.
    Price { frame: 10, second: 50, answer: 10, data: 10 },
    // The window grows a dozen times in the life of a connection.
    Price { frame: 10, second: 10, answer: 0, data: 0 },
    // A plain client updates two windows for every piece that it has read.
    Price { frame: 1, second: 100, answer: 4, data: 4 },
    // A few per request, and the tree of older browsers at the start.
    Price { frame: 2, second: 40, answer: 8, data: 0 },
    // The library allows 100 in the life of a connection.
    Price { frame: 10, second: 0, answer: 0, data: 0 },
    // Extensions that we do not know, and those that exist to be ignored.
    Price { frame: 5, second: 50, answer: 5, data: 0 },
];

/// Kinds that have a bucket: all before [`Flood::Continuation`], and [`Flood::Unknown`] in its place.
const BUCKETS: usize = 8;
const UNKNOWN: usize = 7;

/// A stream that has lived for this long (nanoseconds) may be reset for nothing…
const WAITED: u64 = 100_000_000;

/// …as long as no more of them are than may be open at once, in as much time.
const WAITED_RESETS: u32 = 100;

/// For an acknowledgement of a ping, in points beyond the price of a ping: we send few, and for one that nobody asked for
/// the library writes a line in the log.
const PONG: u32 = 190;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// RFC 9218.
const PRIORITY_UPDATE: u8 = 16;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// ENHANCE_YOUR_CALM (RFC 9113 section 7).
const CALM: u32 = 11;

/// What a client says first (RFC 9113 section 3.4).
const PREFACE: u32 = 24;

/// The watch over one connection.
#[derive(Debug)]
pub struct Sentinel {
    received: Frames,
    sent: Frames,
    ledger: Ledger,
}

impl Sentinel {
    /// For a server's connection that begins `now`, with buckets of `points` (0: without limit) and for header lists of
    /// `header_list` bytes.
    pub fn new(points: u32, header_list: u32, now: u64) -> Self {
        Self {
            received: Frames { skip: PREFACE, ..Frames::default() },
            sent: Frames::default(),
            ledger: Ledger {
                most: if points == 0 { u32::MAX } else { points },
                // What the list needs in frames of 16 KiB, and some that are not full.
                most_pieces: (header_list / (16 * 1024) * 5 / 4).max(5),
                settled: now,
                marked: now,
                ..Ledger::default()
            },
        }
    }

    /// Why the connection is to be ended, if it is.
    pub fn verdict(&self) -> Option<Flood> {
        self.ledger.verdict
    }

    /// Reads what has come from the client, before anything else does. With a verdict, none of these bytes may go further.
    /// `now` is nanoseconds.
    pub fn receive(&mut self, bytes: &[u8], now: u64) -> Option<Flood> {
        self.ledger.grow_old(now);
        self.received.read(bytes, |frame| self.ledger.receive(frame, now));
        self.ledger.check(Flood::ProvokedReset as usize, Flood::ProvokedReset, now);
        self.ledger.verdict
    }

    /// Reads what is about to be sent to the client.
    pub fn send(&mut self, bytes: &[u8]) {
        self.sent.read(bytes, |frame| self.ledger.send(frame));
    }

    /// The GOAWAY that ends the connection; none in the middle of a frame of ours, where nothing can be said.
    pub fn goaway(&self) -> Option<[u8; 17]> {
        if !self.sent.is_between() {
            return None;
        }
        let mut frame = [0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, CALM as u8];
        frame[9..13].copy_from_slice(&self.ledger.last.to_be_bytes());
        Some(frame)
    }
}

/// What was spent and what was earned.
#[derive(Debug, Default)]
struct Ledger {
    /// Points that a bucket holds.
    most: u32,
    spent: [u32; BUCKETS],
    /// Response heads sent since the buckets were last emptied.
    answers: u32,
    /// DATA frames sent, and KiB in them, since then.
    data: u32,
    /// When the buckets were last emptied for the time that has passed, nanoseconds.
    settled: u64,
    /// CONTINUATION frames of the present header block.
    pieces: u32,
    most_pieces: u32,
    /// The highest stream that the client has opened.
    last: u32,
    /// The highest one when `marked` was set, and the highest that has lived for [`WAITED`].
    recent: u32,
    old: u32,
    /// Nanoseconds; so is the time of the last read.
    marked: u64,
    read: u64,
    /// Resets of old streams since `marked`.
    waited: u32,
    verdict: Option<Flood>,
}

impl Ledger {
    /// Notes which streams have lived for long enough when something is read `now`.
    #[inline]
    fn grow_old(&mut self, now: u64) {
        if now.saturating_sub(self.marked) >= WAITED {
            let paused = now.saturating_sub(self.read) >= WAITED;
            self.old = if paused { self.last } else { self.recent };
            (self.recent, self.marked, self.waited) = (self.last, now, 0);
        }
        self.read = now;
    }

    #[inline]
    fn receive(&mut self, frame: Frame, now: u64) {
        let (bucket, flood, more) = match frame.kind {
            HEADERS => {
                self.pieces = 0;
                self.last = self.last.max(frame.stream);
                return;
            }
            DATA if frame.length != 0 || frame.flags & END_STREAM != 0 => return,
            CONTINUATION => {
                self.pieces += u32::from(frame.flags & END_HEADERS == 0);
                if self.pieces > self.most_pieces {
                    self.verdict.get_or_insert(Flood::Continuation);
                }
                return;
            }
            DATA => (Flood::EmptyData as usize, Flood::EmptyData, 0),
            WINDOW_UPDATE => (Flood::WindowUpdate as usize, Flood::WindowUpdate, 0),
            RST_STREAM if frame.stream <= self.old && self.waited < WAITED_RESETS => {
                self.waited += 1;
                return;
            }
            RST_STREAM => (Flood::Reset as usize, Flood::Reset, 0),
            PING => (Flood::Ping as usize, Flood::Ping, if frame.flags & ACK != 0 { PONG } else { 0 }),
            SETTINGS => (Flood::Settings as usize, Flood::Settings, 0),
            PRIORITY | PRIORITY_UPDATE => (Flood::Priority as usize, Flood::Priority, 0),
            _ => (UNKNOWN, Flood::Unknown, 0),
        };
        self.spent[bucket] = self.spent[bucket].saturating_add(PRICES[bucket].frame + more);
        self.check(bucket, flood, now);
    }

    #[inline]
    fn send(&mut self, frame: Frame) {
        match frame.kind {
            DATA => self.data = self.data.saturating_add(1 + (frame.length >> 10)),
            HEADERS => self.answers = self.answers.saturating_add(1),
            // Codes that are not about the client: NO_ERROR, INTERNAL_ERROR, CANCEL.
            RST_STREAM if !matches!(frame.code, 0 | 2 | 8) => {
                let bucket = Flood::ProvokedReset as usize;
                self.spent[bucket] = self.spent[bucket].saturating_add(PRICES[bucket].frame);
            }
            GOAWAY if frame.code == CALM => _ = self.verdict.get_or_insert(Flood::Other),
            _ => {}
        }
    }

    #[inline]
    fn check(&mut self, bucket: usize, flood: Flood, now: u64) {
        if self.spent[bucket] > self.most {
            self.settle(now);
            if self.spent[bucket] > self.most {
                self.verdict.get_or_insert(flood);
            }
        }
    }

    /// Empties the buckets for what has been done since the last time.
    ///
    /// They are emptied only when one of them is full, and never below nothing: at the end of a quiet time there is room
    /// for twice the budget.
    #[cold]
    fn settle(&mut self, now: u64) {
        // Whole seconds, so that no fraction is lost however often this is done.
        let seconds = now.saturating_sub(self.settled) / 1_000_000_000;
        self.settled += seconds * 1_000_000_000;
        for (spent, price) in self.spent.iter_mut().zip(&PRICES) {
            let paid = seconds
                .saturating_mul(price.second.into())
                .saturating_add(u64::from(self.answers) * u64::from(price.answer))
                .saturating_add(u64::from(self.data) * u64::from(price.data));
            *spent = spent.saturating_sub(u32::try_from(paid).unwrap_or(u32::MAX));
        }
        self.answers = 0;
        self.data = 0;
    }
}

/// The head of a frame (RFC 9113 section 4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Frame {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
    /// The error code, of RST_STREAM and GOAWAY.
    code: u32,
}

/// Where one direction's bytes are: in a payload to be skipped, or in a head of which some bytes have come.
#[derive(Debug, Default)]
struct Frames {
    skip: u32,
    have: u8,
    /// Head, and with RST_STREAM and GOAWAY the payload up to the code.
    head: [u8; HEAD + 8],
}

const HEAD: usize = 9;

impl Frames {
    /// Whether the last frame is complete and the next one has not begun.
    fn is_between(&self) -> bool {
        self.skip == 0 && self.have == 0
    }

    /// Calls back for every frame whose head is complete with these bytes.
    #[inline]
    fn read(&mut self, mut bytes: &[u8], mut each: impl FnMut(Frame)) {
        loop {
            let skipped = bytes.len().min(self.skip as usize);
            self.skip -= skipped as u32;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return;
            }
            let used = match bytes.first_chunk().map(wanted) {
                Some(wanted) if self.have == 0 && bytes.len() >= wanted => {
                    each(self.open(bytes, wanted));
                    wanted
                }
                _ => {
                    let Some(wanted) = self.gather(&mut bytes) else { return };
                    self.have = 0;
                    let head = self.head;
                    each(self.open(&head, wanted));
                    0
                }
            };
            bytes = &bytes[used..];
        }
    }

    /// Takes a head that comes in pieces; its length when it is complete.
    #[cold]
    fn gather(&mut self, bytes: &mut &[u8]) -> Option<usize> {
        loop {
            let have = usize::from(self.have);
            let wanted = self.head.first_chunk().filter(|_| have >= HEAD).map_or(HEAD, wanted);
            if have == wanted {
                return Some(wanted);
            }
            let (first, rest) = bytes.split_first()?;
            self.head[have] = *first;
            self.have += 1;
            *bytes = rest;
        }
    }

    /// A frame whose head is at the front of `bytes`, of which `taken` are used; the rest of its payload is to be skipped.
    #[inline]
    fn open(&mut self, bytes: &[u8], taken: usize) -> Frame {
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let length = word(0) >> 8;
        self.skip = length - (taken - HEAD) as u32;
        Frame {
            length,
            kind: bytes[3],
            flags: bytes[4],
            stream: word(5) & 0x7fff_ffff,
            code: if taken > HEAD { word(taken - 4) } else { 0 },
        }
    }
}

/// Bytes of a frame that are to be looked at: the head, and the code where there is one.
#[inline]
fn wanted(head: &[u8; HEAD]) -> usize {
    let short = head[0] == 0 && head[1] == 0 && head[2] < 8;
    match head[3] {
        RST_STREAM if head[..3] == [0, 0, 4] => HEAD + 4,
        GOAWAY if !short => HEAD + 8,
        _ => HEAD,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn number(kind: u8, stream: u32, number: u32) -> Vec<u8> {
        frame(kind, 0, stream, &number.to_be_bytes())
    }

    /// A sentinel that has seen the preface.
    fn begun() -> Sentinel {
        let mut sentinel = Sentinel::new(1000, 32 * 1024, 0);
        assert_eq!(sentinel.receive(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0), None);
        assert!(sentinel.received.is_between());
        sentinel
    }

    /// How many of a frame pass at a moment.
    fn passing(sentinel: &mut Sentinel, bytes: &[u8], now: u64) -> (usize, Option<Flood>) {
        for count in 0..100_000 {
            if let Some(flood) = sentinel.receive(bytes, now) {
                return (count, Some(flood));
            }
        }
        (100_000, None)
    }

    #[test]
    fn every_kind_has_its_budget() {
        for (bytes, most, flood) in [
            (number(RST_STREAM, 1, 8), 500, Flood::Reset),
            (frame(PING, 0, 0, &[0; 8]), 100, Flood::Ping),
            (frame(PING, ACK, 0, &[0; 8]), 5, Flood::Ping),
            (frame(SETTINGS, 0, 0, &[]), 100, Flood::Settings),
            (number(WINDOW_UPDATE, 0, 1), 1000, Flood::WindowUpdate),
            (frame(PRIORITY, 0, 3, &[0; 5]), 500, Flood::Priority),
            (frame(PRIORITY_UPDATE, 0, 0, &[0; 5]), 500, Flood::Priority),
            (frame(DATA, 0, 1, &[]), 100, Flood::EmptyData),
            (frame(CONTINUATION, 0, 1, &[0; 100]), 5, Flood::Continuation),
            (frame(0xfa, 0, 0, b"grease"), 200, Flood::Unknown),
            (frame(GOAWAY, 0, 0, &[0; 8]), 200, Flood::Unknown),
        ] {
            assert_eq!(passing(&mut begun(), &bytes, 0), (most, Some(flood)), "{flood:?}");
        }
    }

    #[test]
    fn work_is_never_a_flood() {
        for bytes in [
            frame(HEADERS, END_HEADERS | END_STREAM, 1, b"head"),
            frame(DATA, 0, 1, b"x"),
            frame(DATA, END_STREAM, 1, b""),
            [frame(HEADERS, 0, 1, b"he"), frame(CONTINUATION, 0, 1, b"a"), frame(CONTINUATION, END_HEADERS, 1, b"d")]
                .concat(),
        ] {
            assert_eq!(passing(&mut begun(), &bytes, 0), (100_000, None));
        }
    }

    #[test]
    fn giving_up_on_streams_that_have_waited_is_no_flood_and_resetting_one_over_and_over_is() {
        let mut sentinel = begun();
        let mut stream = 1;
        // A hundred streams at once, each given up after a quarter of a second, for a minute.
        for round in 0..240 {
            let now = round * SECOND / 4;
            for _ in 0..100 {
                let reset = number(RST_STREAM, stream - 200.min(stream - 1), 8);
                assert_eq!(sentinel.receive(&frame(HEADERS, END_HEADERS, stream, b""), now), None);
                if round > 0 {
                    assert_eq!(sentinel.receive(&reset, now), None, "in round {round}");
                }
                stream += 2;
            }
        }
        let (passed, flood) = passing(&mut sentinel, &number(RST_STREAM, 1, 8), 60 * SECOND);
        assert_eq!(flood, Some(Flood::Reset));
        assert!(passed < 2 * 501 + 100, "{passed}");
    }

    #[test]
    fn a_limit_of_nothing_is_none() {
        let mut sentinel = Sentinel::new(0, 32 * 1024, 0);
        sentinel.receive(&[0; 24], 0);
        assert_eq!(passing(&mut sentinel, &frame(PING, 0, 0, &[0; 8]), 0), (100_000, None));
    }

    #[test]
    fn time_empties_a_bucket_at_its_rate_and_not_below_nothing() {
        let ping = frame(PING, 0, 0, &[0; 8]);
        let mut sentinel = begun();
        for second in 0..10_000 {
            for _ in 0..5 {
                assert_eq!(sentinel.receive(&ping, second * SECOND), None, "in second {second}");
            }
        }
        let (first, flood) = passing(&mut sentinel, &ping, 20_000 * SECOND);
        assert!((100..=200).contains(&first) && flood == Some(Flood::Ping), "{first} after a long pause");
    }

    #[test]
    fn answers_pay_for_cancelled_requests_and_requests_alone_do_not() {
        let mut sentinel = begun();
        let request = frame(HEADERS, END_HEADERS | END_STREAM, 1, b"head");
        for _ in 0..100_000 {
            sentinel.receive(&request, 0);
            sentinel.send(&frame(HEADERS, END_HEADERS, 1, b"\x88"));
            assert_eq!(sentinel.receive(&number(RST_STREAM, 1, 8), 0), None);
        }
        let both = [request, number(RST_STREAM, 1, 8)].concat();
        let (count, flood) = passing(&mut sentinel, &both, 0);
        assert!(count <= 1000 && flood == Some(Flood::Reset), "{count}");
    }

    #[test]
    fn data_pays_for_window_updates_and_for_probes_of_the_bandwidth() {
        let mut sentinel = begun();
        let piece = frame(DATA, 0, 1, &[0; 16 * 1024]);
        let small = frame(DATA, 0, 1, &[0; 10]);
        for _ in 0..10_000 {
            // Two windows for every KiB.
            sentinel.send(&piece);
            for _ in 0..32 {
                assert_eq!(sentinel.receive(&number(WINDOW_UPDATE, 0, 512), 0), None);
            }
            assert_eq!(sentinel.receive(&frame(PING, 0, 0, &[0; 8]), 0), None);
        }
        for _ in 0..10_000 {
            // A stream of small messages.
            sentinel.send(&small);
            for stream in [0, 1] {
                assert_eq!(sentinel.receive(&number(WINDOW_UPDATE, stream, 10), 0), None);
            }
            assert_eq!(sentinel.receive(&frame(PING, 0, 0, &[0; 8]), 0), None);
        }
    }

    #[test]
    fn resets_for_the_clients_errors_are_counted_and_others_are_not() {
        let mut sentinel = begun();
        for code in [0, 2, 8] {
            (0..10_000).for_each(|_| sentinel.send(&number(RST_STREAM, 1, code)));
            assert_eq!(sentinel.receive(&[0], 0), None);
            sentinel.received = Frames::default();
        }
        (0..500).for_each(|_| sentinel.send(&number(RST_STREAM, 1, 3)));
        assert_eq!(sentinel.receive(&frame(DATA, 0, 1, b"x"), 0), None);
        sentinel.send(&number(RST_STREAM, 1, 7));
        assert_eq!(sentinel.receive(&frame(DATA, 0, 1, b"x"), 0), Some(Flood::ProvokedReset));
    }

    #[test]
    fn a_calming_word_of_the_library_is_noticed_and_other_goaways_are_not() {
        let mut sentinel = begun();
        sentinel.send(&frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]));
        assert_eq!(sentinel.verdict(), None);
        sentinel.send(&frame(GOAWAY, 0, 0, b"\0\0\0\x01\0\0\0\x0btoo_many"));
        assert_eq!(sentinel.verdict(), Some(Flood::Other));
        assert!(sentinel.sent.is_between());
    }

    #[test]
    fn goaway_names_the_last_stream_and_is_said_between_frames_only() {
        let mut sentinel = begun();
        sentinel.receive(&frame(HEADERS, END_HEADERS, 7, b"head"), 0);
        let goaway = frame(GOAWAY, 0, 0, &[0, 0, 0, 7, 0, 0, 0, 11]);
        assert_eq!(sentinel.goaway().map(|bytes| bytes.to_vec()), Some(goaway));
        let ours = frame(DATA, 0, 7, b"some data");
        for cut in 1..ours.len() {
            sentinel.send(&ours[..cut]);
            assert_eq!(sentinel.goaway(), None, "{cut} bytes of {}", ours.len());
            sentinel.send(&ours[cut..]);
            assert!(sentinel.goaway().is_some());
        }
    }

    #[test]
    fn frames_are_read_alike_however_they_are_cut() {
        let mut random = fastrand::Rng::with_seed(42);
        for _ in 0..2_000 {
            let mut bytes = Vec::new();
            let mut written = Vec::new();
            for _ in 0..random.usize(1..20) {
                let kind = random.u8(0..12);
                let payload: Vec<u8> = (0..random.usize(0..40)).map(|_| random.u8(..)).collect();
                let (flags, stream) = (random.u8(..), random.u32(..));
                let code_at = match kind {
                    RST_STREAM if payload.len() == 4 => Some(0),
                    GOAWAY if payload.len() >= 8 => Some(4),
                    _ => None,
                };
                let code = code_at.map_or(0, |at| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap()));
                let length = payload.len() as u32;
                written.push(Frame { length, kind, flags, stream: stream & 0x7fff_ffff, code });
                bytes.extend(frame(kind, flags, stream, &payload));
            }
            let mut frames = Frames::default();
            let mut read = Vec::new();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (now, later) = rest.split_at(random.usize(1..=rest.len().min(30)));
                frames.read(now, |frame| read.push(frame));
                rest = later;
            }
            assert_eq!(read, written);
            assert!(frames.is_between());
        }
    }
}
