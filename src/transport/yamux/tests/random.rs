//! Users that do anything, on both sides, over wires that deliver at any pace and cut anywhere.

use proptest::prelude::*;

use super::{
    super::state::{Recv, Send},
    *,
};

#[derive(Debug, Clone)]
enum Op {
    Open(usize),
    Accept(usize),
    /// Side, stream, bytes.
    Write(usize, usize, usize),
    Read(usize, usize, usize),
    Finish(usize, usize),
    Reset(usize, usize),
    Stop(usize, usize),
    DropSend(usize, usize),
    DropRecv(usize, usize),
    Send(usize),
    Flushed(usize),
    /// From which side, how many bytes.
    Deliver(usize, usize),
    Goodbye(usize),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let side = 0..2_usize;
    let stream = 0..6_usize;
    let size = prop_oneof![1..50_usize, 1..100_000_usize];
    let on = (side.clone(), stream);
    prop::collection::vec(
        prop_oneof![
            2 => side.clone().prop_map(Op::Open),
            3 => side.clone().prop_map(Op::Accept),
            8 => (on.clone(), size.clone()).prop_map(|((side, stream), size)| Op::Write(side, stream, size)),
            8 => (on.clone(), size.clone()).prop_map(|((side, stream), size)| Op::Read(side, stream, size)),
            2 => on.clone().prop_map(|(side, stream)| Op::Finish(side, stream)),
            1 => on.clone().prop_map(|(side, stream)| Op::Reset(side, stream)),
            1 => on.clone().prop_map(|(side, stream)| Op::Stop(side, stream)),
            1 => on.clone().prop_map(|(side, stream)| Op::DropSend(side, stream)),
            1 => on.prop_map(|(side, stream)| Op::DropRecv(side, stream)),
            6 => side.clone().prop_map(Op::Send),
            4 => side.clone().prop_map(Op::Flushed),
            8 => (side.clone(), size).prop_map(|(side, size)| Op::Deliver(side, size)),
            1 => side.prop_map(Op::Goodbye).prop_filter("seldom", |_| true),
        ],
        1..300,
    )
}

/// One direction of a stream, as its two users know it.
#[derive(Debug, Default)]
struct Way {
    written: usize,
    finished: bool,
    read: usize,
    /// It was broken off before its end had left: it must not look like one that came to its end.
    broken: bool,
    /// How it ended for the reader.
    ended: Option<Result<(), io::ErrorKind>>,
}

#[derive(Default)]
struct Halves {
    send: Option<Sender>,
    recv: Option<Receiver>,
}

/// A stream: what each side holds of it, and the way that each side sends.
#[derive(Default)]
struct Known {
    id: u32,
    halves: [Halves; 2],
    ways: [Way; 2],
    /// Somebody did other than to write, read and finish.
    disturbed: bool,
}

struct World {
    pair: Pair,
    streams: Vec<Known>,
}

/// The byte of a way at some place.
fn byte(id: u32, side: usize, at: usize) -> u8 {
    (id as usize * 31 + side * 7 + at + at / 251) as u8
}

impl World {
    fn end(&mut self, side: usize) -> &mut End {
        if side == 0 { &mut self.pair.client } else { &mut self.pair.server }
    }

    /// Notes what breaking a stream off now breaks: what either side has not ended.
    fn breaks(&mut self, side: usize, stream: usize) {
        let known = &mut self.streams[stream];
        known.disturbed = true;
        let end = if side == 0 { &self.pair.client } else { &self.pair.server };
        let session = lock(&end.session);
        let Some(state) = session.streams.get(&known.id) else { return };
        if state.sent_all() {
            return;
        }
        known.ways[side].broken = true;
        if state.recv == Recv::Open {
            known.ways[1 - side].broken = true;
        }
    }

    fn write(&mut self, side: usize, stream: usize, len: usize) {
        let known = &mut self.streams[stream];
        let (Some(send), way) = (&known.halves[side].send, &mut known.ways[side]) else { return };
        let bytes: Vec<u8> = (0..len).map(|at| byte(known.id, side, way.written + at)).collect();
        match send.poll_write(&mut cx(), &bytes) {
            Poll::Ready(Ok(len)) => {
                assert!(!way.finished, "written after its end");
                way.written += len;
            }
            Poll::Ready(Err(_)) => assert!(way.finished || known.disturbed),
            Poll::Pending => {}
        }
    }

    fn read(&mut self, side: usize, stream: usize, len: usize) -> bool {
        let known = &mut self.streams[stream];
        let (Some(recv), way) = (&known.halves[side].recv, &mut known.ways[1 - side]) else { return false };
        match read(recv, len) {
            None => {
                assert!(way.ended.is_none(), "an end ends");
                false
            }
            Some(Ok(bytes)) if bytes.is_empty() => {
                assert!(way.finished && way.read == way.written, "an end before the end: {way:?}");
                assert!(!way.broken, "a clean end after a reset: {way:?}");
                way.ended = Some(Ok(()));
                false
            }
            Some(Ok(bytes)) => {
                for (at, got) in bytes.iter().enumerate() {
                    assert_eq!(*got, byte(known.id, 1 - side, way.read + at));
                }
                way.read += bytes.len();
                assert!(way.read <= way.written);
                true
            }
            Some(Err(error)) => {
                assert!(known.disturbed, "{error}");
                assert_ne!(way.ended, Some(Ok(())), "an end ends");
                way.ended = Some(Err(error.kind()));
                false
            }
        }
    }

    fn deliver(&mut self, from: usize, len: usize) {
        let end = self.end(from);
        let len = end.wire.len().min(len);
        let bytes: Vec<u8> = end.wire.drain(..len).collect();
        self.end(1 - from).receive(bytes).expect("both keep to the protocol");
    }

    fn hold(&mut self, side: usize, (send, recv): (Sender, Receiver)) {
        let id = send.id();
        let place = self.streams.iter().position(|known| known.id == id).unwrap_or(self.streams.len());
        if place == self.streams.len() {
            self.streams.push(Known { id, ..Known::default() });
        }
        self.streams[place].halves[side] = Halves { send: Some(send), recv: Some(recv) };
    }

    fn run(&mut self, op: Op) {
        let count = self.streams.len();
        let known = |stream: usize| (count > 0).then(|| stream % count);
        match op {
            Op::Open(side) => {
                if let Some(Ok(stream)) = now(self.end(side).shared.open()) {
                    self.hold(side, stream);
                }
            }
            Op::Accept(side) => {
                if let Some(Ok(stream)) = now(self.end(side).shared.accept()) {
                    self.hold(side, stream);
                }
            }
            Op::Send(side) => drop(self.end(side).send()),
            Op::Flushed(side) => lock(&self.end(side).session).flushed(),
            Op::Deliver(side, len) => self.deliver(side, len),
            Op::Goodbye(side) => {
                // Between frames only: half of one may be under way.
                let end = self.end(side);
                let session = lock(&end.session);
                let between = session.header.is_empty() && session.body.is_none();
                drop(session);
                if between {
                    end.receive(header(Kind::GoAway, Flags::default(), 0, 0)).expect("allowed");
                }
            }
            Op::Write(side, stream, len) => {
                if let Some(stream) = known(stream) {
                    self.write(side, stream, len);
                }
            }
            Op::Read(side, stream, len) => {
                if let Some(stream) = known(stream) {
                    self.read(side, stream, len);
                }
            }
            Op::Finish(side, stream) => {
                if let Some(stream) = known(stream) {
                    self.finish(side, stream);
                }
            }
            Op::Reset(side, stream) => {
                if let Some(stream) = known(stream)
                    && self.streams[stream].halves[side].send.is_some()
                {
                    self.breaks(side, stream);
                    self.streams[stream].halves[side].send.as_ref().expect("it is there").reset();
                }
            }
            Op::DropSend(side, stream) => {
                if let Some(stream) = known(stream)
                    && self.streams[stream].halves[side].send.is_some()
                {
                    if !self.streams[stream].ways[side].finished {
                        self.breaks(side, stream);
                    }
                    self.streams[stream].halves[side].send = None;
                }
            }
            Op::Stop(side, stream) | Op::DropRecv(side, stream) => {
                if let Some(stream) = known(stream)
                    && let Some(recv) = self.streams[stream].halves[side].recv.take()
                {
                    self.streams[stream].disturbed = true;
                    recv.stop();
                }
            }
        }
    }

    fn finish(&mut self, side: usize, stream: usize) {
        let known = &mut self.streams[stream];
        let Some(send) = &known.halves[side].send else { return };
        match finish(send) {
            Poll::Ready(Err(_)) => assert!(known.disturbed),
            Poll::Ready(Ok(())) => assert!(known.ways[side].finished, "an end without being sent"),
            Poll::Pending => {}
        }
        // One that was broken off does not end.
        let end = if side == 0 { &self.pair.client } else { &self.pair.server };
        let session = lock(&end.session);
        let state = session.streams.get(&known.id).expect("it is held");
        if !matches!(state.send, Send::Broken(_)) {
            known.ways[side].finished = true;
        }
    }

    /// All come to their end: what is open is finished, everything arrives and is read.
    fn settle(mut self) {
        loop {
            let mut progress = false;
            for side in 0..2 {
                while let Some(Ok(stream)) = now(self.end(side).shared.accept()) {
                    self.hold(side, stream);
                }
                for stream in 0..self.streams.len() {
                    self.finish(side, stream);
                }
                while self.end(side).send() > 0 {}
                lock(&self.end(side).session).flushed();
                progress |= !self.end(side).wire.is_empty();
                self.deliver(side, usize::MAX);
                for stream in 0..self.streams.len() {
                    while self.read(side, stream, 10_000) {
                        progress = true;
                    }
                }
            }
            if !progress {
                break;
            }
        }
        for known in &self.streams {
            for side in 0..2 {
                let way = &known.ways[side];
                if !known.disturbed {
                    assert_eq!(way.ended, Some(Ok(())), "{way:?}");
                    assert_eq!(way.read, way.written, "{way:?}");
                }
                if known.halves[1 - side].recv.is_some() {
                    assert!(way.ended.is_some(), "no end: {way:?}");
                }
            }
        }
        self.streams.clear();
        self.pair.pump();
        self.pair.client.assert_empty();
        self.pair.server.assert_empty();
        assert!(lock(&self.pair.client.session).turns.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_users_do_bytes_are_whole_and_ends_are_ends(ops in ops()) {
        let mut world = World { pair: Pair::new(), streams: Vec::new() };
        for op in ops {
            world.run(op);
        }
        world.settle();
    }
}
