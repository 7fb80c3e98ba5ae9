//! What a join costs beside the sockets that it joins: bulk one way, and small messages there and back.
//!
//! Each figure with a join stands beside the same without one.

use adit::{
    drain::Tasks,
    splice::{Counts, splice},
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
};

/// How much the bulk runs carry.
const BULK: usize = 64 << 20;

/// How much is written and read at once.
const CHUNK: usize = 64 << 10;

/// How long a message of the ping-pong is, in bytes.
const MESSAGE: usize = 256;

/// Both ends of a connection over loopback.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let address = listener.local_addr().expect("a bound port has an address");
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (near, far) = (near.expect("loopback connects"), far.expect("loopback accepts").0);
    for stream in [&near, &far] {
        stream.set_nodelay(true).expect("TCP_NODELAY can be set");
    }
    (near, far)
}

/// Two ends with a join between them, or with nothing.
async fn ends(tasks: &Tasks, joined: bool) -> (TcpStream, TcpStream) {
    let (near, left) = pair().await;
    if !joined {
        return (near, left);
    }
    let (right, far) = pair().await;
    tasks.spawn(async move {
        // A run that ends early breaks its join, which is no fault of the join.
        drop(splice(left, right, &Counts::default()).await);
    });
    (near, far)
}

async fn bulk(tasks: &Tasks, joined: bool) {
    let (mut near, mut far) = ends(tasks, joined).await;
    tasks.spawn(async move {
        let chunk = vec![7; CHUNK];
        for _ in 0..BULK / CHUNK {
            near.write_all(&chunk).await.expect("the far end reads");
        }
        near.shutdown().await.expect("the far end reads");
    });
    let (mut chunk, mut got) = (vec![0; CHUNK], 0);
    loop {
        match far.read(&mut chunk).await.expect("the near end writes") {
            0 => break,
            len => got += len,
        }
    }
    assert_eq!(got, BULK);
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime starts")
}

fn carry(criterion: &mut Criterion) {
    let (runtime, tasks) = (runtime(), Tasks::new());
    let mut group = criterion.benchmark_group("64 MiB");
    group.sample_size(10).throughput(Throughput::Bytes(BULK as u64));
    for (name, joined) in [("direct", false), ("joined", true)] {
        group.bench_function(name, |bencher| bencher.to_async(&runtime).iter(|| bulk(&tasks, joined)));
    }
    group.finish();
    tasks.abort();
}

fn ping_pong(criterion: &mut Criterion) {
    let (runtime, tasks) = (runtime(), Tasks::new());
    let mut group = criterion.benchmark_group("256 bytes there and back");
    for (name, joined) in [("direct", false), ("joined", true)] {
        let mut near = runtime.block_on(async {
            let (near, mut far) = ends(&tasks, joined).await;
            tasks.spawn(async move {
                let mut message = [0; MESSAGE];
                while far.read_exact(&mut message).await.is_ok() {
                    far.write_all(&message).await.expect("the near end reads");
                }
            });
            near
        });
        let mut message = [7; MESSAGE];
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                runtime.block_on(async {
                    near.write_all(&message).await.expect("the far end reads");
                    near.read_exact(&mut message).await.expect("the far end answers");
                });
            });
        });
    }
    group.finish();
    tasks.abort();
}

criterion_group!(benches, carry, ping_pong);
criterion_main!(benches);
