//! Requests at a fixed rate, whatever the answers do: an open loop. A latency counts from the moment at which the request
//! was due, so a proxy that stalls is charged for everything that had to wait behind the stall.
//!
//! The clock is a timerfd, as timers of the runtime go by the millisecond and requests here are 200 µs apart.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::task::spawn_local;

use crate::backend::SMALL;
use crate::{Result, client};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// How long the first requests are not counted: connections are opened on both sides of the proxy.
const WARM: Duration = Duration::from_millis(500);

/// How long the last requests have for their answers.
const PATIENCE: Duration = Duration::from_secs(2);

struct Connection {
    stream: TcpStream,
    /// When the request was due that is being answered.
    current: Option<Duration>,
    /// When those were due that wait for it.
    waiting: VecDeque<Duration>,
}

/// What was measured, in times since the start.
struct Measured {
    start: Instant,
    latencies: Vec<Duration>,
    fault: Option<String>,
}

/// Sends so many requests a second over so many connections, and prints p50, p99 and p99.9 in microseconds.
pub async fn run(to: SocketAddr, connections: usize, rate: u32, seconds: u32) -> Result<()> {
    let mut all = Vec::new();
    for _ in 0..connections {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        all.push(Rc::new(RefCell::new(Connection { stream, current: None, waiting: VecDeque::new() })));
    }
    let interval = Duration::from_secs(1) / rate;
    let total = u64::from(rate) * u64::from(seconds) + u64::from(rate) * WARM.as_millis() as u64 / 1000;
    #[expect(deprecated, reason = "what replaces it is unsafe; an owned descriptor is always the same one")]
    let timer = AsyncFd::new(timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?)?;
    let every = Timespec { tv_sec: 0, tv_nsec: interval.as_nanos() as i64 };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: every, it_value: every })?;
    let measured = Rc::new(RefCell::new(Measured { start: Instant::now(), latencies: Vec::new(), fault: None }));
    for connection in &all {
        spawn_local(receive(connection.clone(), measured.clone()));
    }
    let mut next = 0;
    while next < total {
        let mut ready = timer.readable().await?;
        let mut expirations = [0; 8];
        let read = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut expirations)?));
        if let Ok(Err(error)) = read {
            return Err(error.into());
        }
        let (now, fault) = {
            let measured = measured.borrow();
            (measured.start.elapsed(), measured.fault.clone())
        };
        if let Some(fault) = fault {
            return Err(fault.into());
        }
        // Requests that are due; more than one if this process had to wait for the core.
        while next < total && interval * u32::try_from(next + 1)? <= now {
            let due = interval * u32::try_from(next + 1)?;
            let mut connection = all[next as usize % connections].borrow_mut();
            if connection.current.is_some() {
                connection.waiting.push_back(due);
            } else {
                connection.send(due)?;
            }
            next += 1;
        }
    }
    let until = Instant::now() + PATIENCE;
    while all.iter().any(|connection| connection.borrow().current.is_some()) {
        if Instant::now() > until {
            return Err(format!("requests without an answer {PATIENCE:?} after the last was due").into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut measured = measured.borrow_mut();
    if let Some(fault) = measured.fault.take() {
        return Err(fault.into());
    }
    measured.latencies.sort_unstable();
    let latencies = &measured.latencies;
    let at = |share: f64| {
        let rank = (latencies.len() as f64 * share) as usize;
        latencies.get(rank.min(latencies.len().saturating_sub(1))).map_or(0.0, |time| time.as_nanos() as f64 / 1000.0)
    };
    println!("{:.1} {:.1} {:.1}", at(0.5), at(0.99), at(0.999));
    Ok(())
}

impl Connection {
    fn send(&mut self, due: Duration) -> Result<()> {
        // A request is short and the one before it was answered, so the socket has room.
        if self.stream.try_write(REQUEST)? != REQUEST.len() {
            return Err("a request could not be sent as a whole".into());
        }
        self.current = Some(due);
        Ok(())
    }
}

async fn receive(connection: Rc<RefCell<Connection>>, measured: Rc<RefCell<Measured>>) {
    let mut answer = Vec::with_capacity(4 * SMALL);
    loop {
        if let Err(error) = step(&connection, &measured, &mut answer).await {
            measured.borrow_mut().fault.get_or_insert(error.to_string());
            return;
        }
    }
}

/// Takes what has arrived; at the end of an answer notes its latency and sends what waits.
async fn step(connection: &RefCell<Connection>, measured: &RefCell<Measured>, answer: &mut Vec<u8>) -> Result<()> {
    std::future::poll_fn(|context| connection.borrow().stream.poll_read_ready(context)).await?;
    let mut connection = connection.borrow_mut();
    match connection.stream.try_read_buf(answer) {
        Ok(0) => return Err("the connection was closed".into()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let Some(head) = client::head(answer)? else { return Ok(()) };
    let length = head.length.ok_or("the answer has no Content-Length")?;
    if head.status != 200 || length != SMALL {
        return Err(format!("status {} with {length} bytes", head.status).into());
    }
    if answer.len() < head.bytes + length {
        return Ok(());
    }
    answer.clear();
    let due = connection.current.take().ok_or("an answer without a request")?;
    {
        let mut measured = measured.borrow_mut();
        let now = measured.start.elapsed();
        if due >= WARM {
            measured.latencies.push(now.saturating_sub(due));
        }
    }
    match connection.waiting.pop_front() {
        Some(due) => connection.send(due),
        None => Ok(()),
    }
}
