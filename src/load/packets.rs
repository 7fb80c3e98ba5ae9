//! Packets: each is sent to an echo at a rate, and what comes back is counted. Packets may be lost; none may be changed.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{
    Clients, Recorder, Turns, Way,
    way::{OpenError, Packets as Socket},
};
use crate::drain::Tasks;

/// The longest packet of UDP.
const LONGEST: usize = 65_535;

/// A packet begins with its number, when it was due, and when it was sent, in nanoseconds from the start.
const HEAD: usize = 24;

/// What the clients of a run do.
#[derive(Debug)]
pub struct Packets {
    /// Client `i` goes by way number `i` modulo their count.
    pub ways: Vec<Way>,
    /// How many associations.
    pub clients: usize,
    /// The size of a packet, in bytes, at least [`Packets::LEAST`].
    pub size: usize,
    /// After the last was sent, wait so long for those that are missing.
    pub patience: Duration,
}

/// What came of them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Arrived {
    /// Packets sent.
    pub sent: u64,
    /// That came back, each once.
    pub came: u64,
    /// That came back after a later one.
    pub late: u64,
    /// That came back again.
    pub twice: u64,
    /// The mean of the clients' jitter, in seconds (RFC 3550 §6.4.1), of the round trip.
    pub jitter: f64,
}

/// What one client knows of its own packets.
#[derive(Debug, Default)]
struct Seen {
    came: Vec<bool>,
    count: u64,
    highest: Option<u64>,
    late: u64,
    twice: u64,
    transit: Option<f64>,
    jitter: f64,
}

impl Seen {
    /// Takes note of a packet; whether it is the first of its number.
    fn note(&mut self, number: u64, transit: f64) -> bool {
        let index = number as usize;
        if self.came.len() <= index {
            self.came.resize(index + 1, false);
        }
        if std::mem::replace(&mut self.came[index], true) {
            self.twice += 1;
            return false;
        }
        self.count += 1;
        self.late += u64::from(self.highest.is_some_and(|highest| number < highest));
        self.highest = self.highest.max(Some(number));
        if let Some(before) = self.transit.replace(transit) {
            self.jitter += ((transit - before).abs() - self.jitter) / 16.0;
        }
        true
    }
}

impl Packets {
    /// The least size of a packet, in bytes.
    pub const LEAST: usize = HEAD;

    /// Runs all clients to the end of their turns, and waits for what is missing. Latency is that of the round trip. Dropping
    /// the future ends them at once.
    pub async fn run(self: &Arc<Self>, turns: Arc<Turns>, recorder: &Arc<Recorder>) -> Arrived {
        let tasks = Clients(Tasks::new());
        let sum = Arc::new(Mutex::new(Arrived::default()));
        for index in 0..self.clients {
            let (packets, turns) = (Arc::clone(self), Arc::clone(&turns));
            let (recorder, sum) = (Arc::clone(recorder), Arc::clone(&sum));
            tasks.0.spawn(async move {
                match packets.client(index, &turns, &recorder).await {
                    Ok((sent, seen)) => {
                        let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                        sum.sent += sent;
                        sum.came += seen.count;
                        sum.late += seen.late;
                        sum.twice += seen.twice;
                        sum.jitter += seen.jitter / packets.clients as f64;
                    }
                    Err(error) => {
                        tracing::debug!(%error, "an association failed");
                        recorder.failed(Instant::now(), &error.kind());
                    }
                }
            });
        }
        tasks.0.wait_empty().await;
        let arrived = *sum.lock().unwrap_or_else(PoisonError::into_inner);
        if arrived.came == 0 {
            recorder.failed_times(Instant::now(), "nothing came back", arrived.sent.max(1));
        }
        arrived
    }

    async fn client(
        &self,
        index: usize,
        turns: &Turns,
        recorder: &Recorder,
    ) -> Result<(u64, Seen), OpenError> {
        let start = turns.pace().start();
        let mut socket = self.ways[index % self.ways.len()].associate().await?;
        let mut packet: Vec<u8> = (0..self.size).map(|at| (at * 31 % 251) as u8).collect();
        let body = packet[HEAD..].to_vec();
        let (mut sent, mut seen, mut buffer) = (0_u64, Seen::default(), vec![0; LONGEST]);
        let mut last = None;
        loop {
            let patience = last.map(|last: Instant| (last + self.patience).into());
            let gave_up = async {
                match patience {
                    Some(end) => tokio::time::sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                ticket = turns.next(), if last.is_none() => match ticket {
                    None => last = Some(Instant::now()),
                    Some(ticket) => {
                        let nanoseconds = |at: Instant| (at - start).as_nanos() as u64;
                        let head = [sent, nanoseconds(ticket.due), nanoseconds(Instant::now())];
                        for (place, value) in packet.chunks_exact_mut(8).zip(head) {
                            place.copy_from_slice(&value.to_be_bytes());
                        }
                        // What the system does not take is lost like any other.
                        if let Err(error) = socket.send(&packet).await {
                            tracing::debug!(%error, "a packet was not sent");
                        }
                        sent += 1;
                    }
                },
                came = socket.recv(&mut buffer) => {
                    let now = Instant::now();
                    match came {
                        Ok(len) if buffer[..len].get(HEAD..) == Some(&body[..]) => {
                            let value = |at: usize| {
                                u64::from_be_bytes(buffer[at * 8..][..8].try_into().expect("eight bytes"))
                            };
                            let at = |nanoseconds| start + Duration::from_nanos(nanoseconds);
                            let transit = now.saturating_duration_since(at(value(2)));
                            if value(0) < sent && seen.note(value(0), transit.as_secs_f64()) {
                                recorder.good(at(value(1)), now, len as u64 * 2);
                            }
                        }
                        Ok(_) => recorder.failed(now, "wrong bytes"),
                        Err(error) => {
                            tracing::debug!(%error, "an association broke");
                            recorder.failed(now, "broken off");
                            return Ok((sent, seen));
                        }
                    }
                }
                () = gave_up => return Ok((sent, seen)),
            }
            if last.is_some() && seen.count == sent {
                return Ok((sent, seen));
            }
        }
    }
}

impl Socket {
    async fn send(&mut self, packet: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Socket(socket) => socket.send(packet).await.map(drop),
            Self::Association(association) => association.send(packet).await,
        }
    }

    /// The length of the next packet. Cancel safe.
    async fn recv(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Socket(socket) => socket.recv(buffer).await,
            Self::Association(association) => {
                let packet = association.recv().await?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
                let len = packet.len().min(buffer.len());
                buffer[..len].copy_from_slice(&packet[..len]);
                Ok(len)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_counted_once_and_jitter_follows_their_times() {
        let mut seen = Seen::default();
        for (number, transit) in [(0, 1.0), (1, 1.0), (3, 1.0), (2, 1.0), (2, 1.0)] {
            seen.note(number, transit);
        }
        assert_eq!((seen.count, seen.late, seen.twice, seen.jitter), (4, 1, 1, 0.0));
        seen.note(4, 17.0);
        assert_eq!(seen.jitter, 1.0, "a sixteenth of the difference");
    }
}
