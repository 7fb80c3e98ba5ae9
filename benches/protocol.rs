//! What frames cost: the one that begins each flow, and the largest that a link sees.

use std::hint::black_box;

use adit::protocol::{
    AgentId, Control, EndpointId, Flow, Frame, Hello, Hop, Kind, Listen, ListenOptions, Open, Retire, Role,
    Secret, decode, encode,
};
use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

fn endpoint(name: &str) -> EndpointId {
    EndpointId::new(name).expect("the name is valid")
}

fn open() -> Flow {
    Flow::Open(Open {
        endpoint: endpoint("orders.example"),
        tenant: None,
        kind: Kind::Tcp,
        hop: Hop::First,
        agent: None,
        client: Some(([198, 51, 100, 9], 40_000).into()),
        server: None,
        trace: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
    })
}

fn hello() -> Control {
    Control::Hello(Hello {
        version: 1,
        oldest: 1,
        role: Role::Agent,
        agent: AgentId::from_bits(7),
        name: Some("berlin-1".into()),
        tenant: None,
        token: Some(Secret::new("t".repeat(1024))),
        listens: (0..256)
            .map(|id| Listen {
                id,
                endpoint: endpoint(&format!("service-{id}.example")),
                kind: Kind::Http,
                options: ListenOptions::default(),
            })
            .collect(),
        avoid: Vec::new(),
    })
}

fn retire() -> Control {
    Control::Retire(Retire { flows: (0..1024).map(|flow| flow * 4 + 1).collect() })
}

fn both_ways<F: Frame>(criterion: &mut Criterion, name: &str, frame: &F) {
    let mut bytes = BytesMut::new();
    encode(frame, &mut bytes);
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("encode", |bencher| {
        let mut out = BytesMut::with_capacity(bytes.len());
        bencher.iter(|| {
            out.clear();
            encode(black_box(frame), &mut out);
        });
    });
    group.bench_function("decode", |bencher| {
        bencher.iter_batched(
            || bytes.clone(),
            |mut bytes| decode::<F>(&mut bytes).expect("the frame is valid"),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn frames(criterion: &mut Criterion) {
    both_ways(criterion, "Open", &open());
    both_ways(criterion, "Hello with 256 listens", &hello());
    both_ways(criterion, "Retire of 1024 flows", &retire());
}

criterion_group!(benches, frames);
criterion_main!(benches);
