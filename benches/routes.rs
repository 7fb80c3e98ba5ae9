//! What the routing table costs as it grows: a lookup by a reader, and a change of one endpoint.

use std::hint::black_box;

use adit::{
    cluster::table::{Name, Table},
    protocol::{AgentId, EndpointId, TenantId},
};
use arc_swap::ArcSwap;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

const NODES: usize = 100;
const AGENTS: usize = 2;

/// Which agent serves an endpoint, and at which node.
type Route = (AgentId, usize);

fn name(number: usize) -> Name {
    let endpoint = format!("service-{number:06}.example");
    Name { tenant: TenantId::default(), endpoint: EndpointId::new(&endpoint).expect("the name is valid") }
}

fn routes(number: usize) -> Vec<Route> {
    (0..AGENTS)
        .map(|agent| (AgentId::from_bits((number * AGENTS + agent) as u128), (number + agent) % NODES))
        .collect()
}

fn registry(endpoints: usize) -> ArcSwap<Table<Name, Route>> {
    let table =
        (0..endpoints).fold(Table::default(), |table, number| table.with(&name(number), |_| routes(number)));
    ArcSwap::from_pointee(table)
}

fn table(criterion: &mut Criterion) {
    for endpoints in [1_000, 100_000] {
        let registry = registry(endpoints);
        // Far apart, so that not all that is read is in the nearest cache.
        let names: Vec<_> = (0..1024).map(|step| name(step * 7919 % endpoints)).collect();
        let mut turn = names.iter().cycle();
        criterion.bench_with_input(BenchmarkId::new("lookup", endpoints), &registry, |bencher, registry| {
            bencher.iter(|| {
                let name = turn.next().expect("a cycle does not end");
                registry.load().get(black_box(name)).len()
            });
        });
        criterion.bench_with_input(
            BenchmarkId::new("change of one", endpoints),
            &registry,
            |bencher, registry| {
                bencher.iter(|| {
                    let name = turn.next().expect("a cycle does not end");
                    registry.rcu(|table| table.with(black_box(name), <[_]>::to_vec));
                });
            },
        );
    }
}

criterion_group!(benches, table);
criterion_main!(benches);
