//! What holds for all frames: their bytes, their bounds, and what `decode` does with whatever arrives. The bytes are also
//! those of `docs/protocol.md`, and the messages those of `docs/adit.proto`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{Debug, Write},
    str::FromStr,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use proptest::{collection::vec, option, prelude::*, sample::Index};

use super::*;

const DOCS: &str = include_str!("../../docs/protocol.md");
const PROTO: &str = include_str!("../../docs/adit.proto");

fn read<T: FromStr<Err: Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn bytes<F: Frame>(frame: &F) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode(frame, &mut out);
    out.to_vec()
}

/// The one frame that the bytes are.
fn frame<F: Frame + Debug>(bytes: &[u8]) -> Result<F, DecodeError> {
    let mut buf = BytesMut::from(bytes);
    let frame = decode(&mut buf).map(|frame| frame.expect("the frame is whole"));
    assert!(
        buf.is_empty() || matches!(frame, Err(DecodeError::TooLong { .. })),
        "{frame:?} left {} bytes",
        buf.len()
    );
    frame
}

fn listen(id: u64, endpoint: &str, kind: Kind) -> Listen {
    Listen { id, endpoint: read(endpoint), kind, options: ListenOptions::default() }
}

fn hello() -> Hello {
    Hello {
        version: 1,
        oldest: 1,
        role: Role::Agent,
        agent: AgentId::from_bits(0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f),
        name: Some("berlin-1".into()),
        tenant: Some(read("acme")),
        token: Some(Secret::new("s3cr3t")),
        listens: vec![listen(1, "web", Kind::Http), listen(2, "db", Kind::Tcp)],
        avoid: Vec::new(),
    }
}

fn node(name: &str, address: &str) -> NodeAddress {
    NodeAddress { node: read(name), address: address.into() }
}

fn welcome() -> Welcome {
    Welcome {
        version: 1,
        node: read("n1"),
        cluster: "adit".into(),
        nodes: vec![node("n1", "203.0.113.7:8001")],
        max_listens: 10_000,
    }
}

fn refusal(code: Code, message: &str) -> Refusal {
    Refusal { code, message: message.into() }
}

fn open() -> Open {
    Open {
        endpoint: read("db"),
        tenant: Some(read("acme")),
        kind: Kind::Tcp,
        hop: Hop::First,
        agent: None,
        client: Some(read("198.51.100.9:40000")),
        server: None,
        trace: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
    }
}

fn http_open() -> Open {
    let (endpoint, kind, hop) = (read("web"), Kind::Http, Hop::Final);
    Open { endpoint, tenant: None, kind, hop, agent: None, client: None, server: None, trace: None }
}

fn udp_open() -> Open {
    let (endpoint, kind, hop) = (read("dns"), Kind::Udp, Hop::First);
    let client = Some(read("198.51.100.9:40001"));
    Open { endpoint, tenant: None, kind, hop, agent: None, client, server: None, trace: None }
}

const PACKET: [u8; 4] = [0xde, 0xad, 0xbe, 0xef];

fn agent() -> AgentId {
    AgentId::from_bits(0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f)
}

/// A flow for the requests of one client, of whom the service is told.
fn told_open() -> Open {
    let (client, server) = (Some(read("198.51.100.9:40000")), Some(read("[2001:db8::1]:443")));
    Open { client, server, ..http_open() }
}

/// What one node asks another for.
fn node_open() -> Open {
    Open { tenant: Some(read("acme")), agent: Some(agent()), ..http_open() }
}

fn peer_hello() -> PeerHello {
    PeerHello {
        version: 1,
        oldest: 1,
        node: read("n2"),
        cluster: "adit".into(),
        incarnation: 1_767_225_600_000,
        peer_address: "[2001:db8::2]:8002".into(),
        link_address: "203.0.113.8:8001".into(),
        phase: Phase::Starting,
    }
}

fn route(endpoint: &str, kind: Kind) -> PeerRoute {
    let (tenant, endpoint, options) = (read("acme"), read(endpoint), ListenOptions::default());
    PeerRoute { tenant, endpoint, agent: agent(), kind, options }
}

fn snapshot() -> RouteUpdate {
    RouteUpdate {
        snapshot: true,
        more: false,
        sequence: 300,
        added: vec![route("web", Kind::Http)],
        removed: Vec::new(),
    }
}

fn load() -> Load {
    Load { agent_links: 3, agents: vec![(agent(), 12)], suspects: Vec::new() }
}

/// Hosts that stand for an endpoint, whose service is told of clients.
fn mapped(hosts: &[&str]) -> ListenOptions {
    ListenOptions { hosts: hosts.iter().map(|host| read(host)).collect(), proxy_protocol: true }
}

/// One of each control frame, and a second `Listen`.
fn controls() -> Vec<Control> {
    let all = vec![
        Control::Hello(hello()),
        Control::Welcome(welcome()),
        Control::Refused(refusal(Code::Draining, "this node is leaving")),
        Control::Ping(1),
        Control::Pong(300),
        Control::Listen(listen(3, "ssh", Kind::Tcp)),
        Control::Listen(Listen {
            options: mapped(&["a.example", "*.b.example"]),
            ..listen(4, "web", Kind::Http)
        }),
        Control::Listening(3),
        Control::ListenRefused(3, refusal(Code::Invalid, "the link serves ssh already")),
        Control::Unlisten(3),
        Control::Unlistened(3),
        Control::Nodes(vec![node("n1", "203.0.113.7:8001"), node("n2", "[2001:db8::2]:8001")]),
        Control::Token(Secret::new("fresh")),
        Control::Retire(Retire { flows: vec![1, 5, 1025] }),
        Control::GoAway(GoAway {
            reason: GoAwayReason::Rebalance,
            deadline: Duration::from_secs(30),
            smear: Duration::from_millis(250),
        }),
        Control::Unsupported(0x7f),
    ];
    // A frame that is added here without an example does not compile, or does not count.
    let numbers: BTreeSet<_> = all
        .iter()
        .map(|frame| match frame {
            Control::Hello(_) => 0,
            Control::Welcome(_) => 1,
            Control::Refused(_) => 2,
            Control::Ping(_) => 3,
            Control::Pong(_) => 4,
            Control::Listen(_) => 5,
            Control::Listening(_) => 6,
            Control::ListenRefused(..) => 7,
            Control::Unlisten(_) => 8,
            Control::Unlistened(_) => 9,
            Control::Nodes(_) => 10,
            Control::Token(_) => 11,
            Control::Retire(_) => 12,
            Control::GoAway(_) => 13,
            Control::Unsupported(_) => 14,
        })
        .collect();
    assert_eq!(numbers.len(), 15);
    all
}

fn ask() -> Ask {
    Ask {
        path: "/api/v1/links".into(),
        act: false,
        body: Bytes::new(),
        tenants: Some(vec![read("acme"), read("blue")]),
    }
}

fn act() -> Ask {
    let body = Bytes::from_static(br#"{"level":"debug"}"#);
    Ask { path: "/api/v1/log-level".into(), act: true, body, tenants: None }
}

/// One of each frame of a flow, three more of `Open` and one of `Ask`.
fn flows() -> Vec<Flow> {
    let all = vec![
        Flow::Open(open()),
        Flow::Open(http_open()),
        Flow::Open(node_open()),
        Flow::Open(told_open()),
        Flow::Opened,
        Flow::Refused(refusal(Code::UpstreamRefused, "db:5432 refused")),
        Flow::Ask(ask()),
        Flow::Ask(act()),
        Flow::Answer(404),
    ];
    let numbers: BTreeSet<_> = all
        .iter()
        .map(|frame| match frame {
            Flow::Open(_) => 0,
            Flow::Opened => 1,
            Flow::Refused(_) => 2,
            Flow::Ask(_) => 3,
            Flow::Answer(_) => 4,
        })
        .collect();
    assert_eq!(numbers.len(), 5);
    all
}

/// One of each frame between nodes, and a second `Routes`.
fn peers() -> Vec<Peer> {
    let change = RouteUpdate {
        snapshot: false,
        more: true,
        sequence: 302,
        added: vec![PeerRoute { options: mapped(&["a.example"]), ..route("db", Kind::Tcp) }],
        removed: vec![route("web", Kind::Http)],
    };
    let all = vec![
        Peer::Hello(peer_hello()),
        Peer::Welcome(PeerHello { node: read("n1"), phase: Phase::Ready, ..peer_hello() }),
        Peer::Refused(refusal(Code::Superseded, "the two nodes are linked already")),
        Peer::Ping(1),
        Peer::Pong(300),
        Peer::Routes(snapshot()),
        Peer::Routes(change),
        Peer::Phase(Phase::Draining),
        Peer::Load(load()),
        Peer::Load(Load { suspects: vec![agent()], ..load() }),
        Peer::Retire(Retire { flows: vec![1, 5, 1025] }),
        Peer::Unsupported(0x7f),
    ];
    let numbers: BTreeSet<_> = all
        .iter()
        .map(|frame| match frame {
            Peer::Hello(_) => 0,
            Peer::Welcome(_) => 1,
            Peer::Refused(_) => 2,
            Peer::Ping(_) => 3,
            Peer::Pong(_) => 4,
            Peer::Routes(_) => 5,
            Peer::Phase(_) => 6,
            Peer::Load(_) => 7,
            Peer::Retire(_) => 8,
            Peer::Unsupported(_) => 9,
        })
        .collect();
    assert_eq!(numbers.len(), 10);
    all
}

/// A frame's name, as its `Debug` begins.
fn name(frame: &impl Debug) -> String {
    format!("{frame:?}").chars().take_while(char::is_ascii_alphanumeric).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// Name, header and body of each frame, 32 bytes a line.
fn dump<F: Frame + Debug>(frames: &[F]) -> String {
    let mut text = String::new();
    for frame in frames {
        let bytes = bytes(frame);
        let (header, body) = bytes.split_at(HEADER_LEN);
        writeln!(text, "{} {} {}", name(frame), hex(&header[..1]), hex(&header[1..])).unwrap();
        for line in body.chunks(32) {
            writeln!(text, "  {}", hex(line)).unwrap();
        }
    }
    text
}

mod bytes_on_the_wire {
    use super::*;

    #[test]
    fn control_frames_keep_their_bytes() {
        insta::assert_snapshot!(dump(&controls()), @r"
        Hello 01 000045
          0801100118012210000102030405060708090a0b0c0d0e0f2a086265726c696e
          2d31320461636d653a0673336372337442090801120377656218014208080212
          0264621802
        Welcome 02 000027
          080112026e311a046164697422160a026e3112103230332e302e3131332e373a
          3830303128904e
        Refused 03 000018
          080c121474686973206e6f6465206973206c656176696e67
        Ping 04 000002
          0801
        Pong 05 000003
          08ac02
        Listen 06 000009
          080312037373681802
        Listen 06 000023
          0804120377656218012209612e6578616d706c65220b2a2e622e6578616d706c
          652801
        Listening 07 000002
          0803
        ListenRefused 08 000021
          080310021a1b746865206c696e6b207365727665732073736820616c72656164
          79
        Unlisten 09 000002
          0803
        Unlistened 0a 000002
          0803
        Nodes 0b 000032
          0a160a026e3112103230332e302e3131332e373a383030310a180a026e321212
          5b323030313a6462383a3a325d3a38303031
        Token 0c 000007
          0a056672657368
        Retire 0d 000006
          0a0401058108
        GoAway 0e 000009
          080210b0ea0118fa01
        Unsupported 0f 000002
          087f
        ");
    }

    #[test]
    fn flow_frames_keep_their_bytes() {
        insta::assert_snapshot!(dump(&flows()), @r"
        Open 20 000059
          0a026462120461636d6518022a123139382e35312e3130302e393a3430303030
          323730302d346266393266333537376233346461366133636539323964306530
          65343733362d303066303637616130626139303262372d3031
        Open 20 000009
          0a0377656218012001
        Open 20 000021
          0a03776562120461636d65180120013a10000102030405060708090a0b0c0d0e
          0f
        Open 20 000030
          0a03776562180120012a123139382e35312e3130302e393a343030303042115b
          323030313a6462383a3a315d3a343433
        Opened 21 000000
        Refused 03 000013
          0808120f64623a353433322072656675736564
        Ask 22 00001b
          0a0d2f6170692f76312f6c696e6b732a0461636d652a04626c7565
        Ask 22 00002a
          0a112f6170692f76312f6c6f672d6c6576656c10011a117b226c6576656c223a
          226465627567227d2001
        Answer 23 000003
          089403
        ");
    }

    #[test]
    fn peer_frames_keep_their_bytes() {
        insta::assert_snapshot!(dump(&peers()), @r"
        Hello 30 00003d
          080110011a026e322204616469742880d0eab6b73332125b323030313a646238
          3a3a325d3a383030323a103230332e302e3131332e383a383030314001
        Welcome 31 00003d
          080110011a026e312204616469742880d0eab6b73332125b323030313a646238
          3a3a325d3a383030323a103230332e302e3131332e383a383030314002
        Refused 03 000024
          080e12207468652074776f206e6f64657320617265206c696e6b656420616c72
          65616479
        Ping 04 000002
          0801
        Pong 05 000003
          08ac02
        Routes 32 000026
          080118ac02221f0a0461636d6512037765621a10000102030405060708090a0b
          0c0d0e0f2001
        Routes 32 000053
          100118ae02222b0a0461636d65120264621a10000102030405060708090a0b0c
          0d0e0f20022a09612e6578616d706c6530012a1f0a0461636d6512037765621a
          10000102030405060708090a0b0c0d0e0f2001
        Phase 33 000002
          0803
        Load 34 000018
          080312140a10000102030405060708090a0b0c0d0e0f100c
        Load 34 00002a
          080312140a10000102030405060708090a0b0c0d0e0f100c1a10000102030405
          060708090a0b0c0d0e0f
        Retire 0d 000006
          0a0401058108
        Unsupported 0f 000002
          087f
        ");
    }

    #[test]
    fn every_frame_has_a_type_of_its_own() {
        fn types<F: Frame + Debug>(frames: Vec<F>) -> BTreeMap<u8, String> {
            let mut seen = BTreeMap::new();
            for frame in frames {
                let (kind, name) = (frame.to_parts().0, name(&frame));
                assert_eq!(seen.entry(kind).or_insert_with(|| name.clone()), &name, "0x{kind:02x}");
            }
            let names: BTreeSet<_> = seen.values().collect();
            assert_eq!(names.len(), seen.len(), "a frame has one type");
            seen
        }
        let mut all = BTreeMap::new();
        for (count, types) in [(15, types(controls())), (5, types(flows())), (10, types(peers()))] {
            assert_eq!(types.len(), count);
            for (kind, name) in types {
                // Where a type stands on several kinds of stream, as a refusal does, it is the same frame.
                assert_eq!(all.entry(kind).or_insert_with(|| name.clone()), &name, "0x{kind:02x}");
            }
        }
        assert_eq!(all.len(), 24);
    }

    #[test]
    fn frames_that_stand_on_several_kinds_of_stream_have_the_same_bytes() {
        let refusal = refusal(Code::Draining, "this node is leaving");
        assert_eq!(bytes(&Peer::Refused(refusal.clone())), bytes(&Control::Refused(refusal.clone())));
        assert_eq!(bytes(&Peer::Refused(refusal.clone())), bytes(&Flow::Refused(refusal)));
        assert_eq!(bytes(&Peer::Ping(300)), bytes(&Control::Ping(300)));
        assert_eq!(bytes(&Peer::Pong(300)), bytes(&Control::Pong(300)));
        let retire = Retire { flows: vec![1, 300] };
        assert_eq!(bytes(&Peer::Retire(retire.clone())), bytes(&Control::Retire(retire)));
        assert_eq!(bytes(&Peer::Unsupported(0x7f)), bytes(&Control::Unsupported(0x7f)));
    }

    #[test]
    fn the_length_is_three_bytes_in_network_order() {
        let flows = vec![u64::MAX; Retire::MAX_FLOWS];
        let bytes = bytes(&Control::Retire(Retire { flows }));
        assert_eq!(bytes[..4], [0x0d, 0x00, 0x28, 0x03]);
        assert_eq!(bytes.len(), HEADER_LEN + 0x2803);
    }
}

mod round_trips {
    use super::*;

    /// A text of 1 to `max` bytes, of any characters.
    fn text(max: usize) -> impl Strategy<Value = String> {
        vec(any::<char>(), 1..=max).prop_map(move |chars| {
            let mut text: String = chars.into_iter().collect();
            text.truncate(text.floor_char_boundary(max));
            text
        })
    }

    fn id<T: FromStr<Err: Debug> + Debug>(pattern: &'static str) -> impl Strategy<Value = T> {
        pattern.prop_map(|text| read(&text))
    }

    fn endpoint() -> impl Strategy<Value = EndpointId> {
        id("[a-z0-9._~-]{1,128}")
    }

    fn tenant() -> impl Strategy<Value = TenantId> {
        id("[A-Za-z0-9._~-]{1,64}")
    }

    fn kind() -> impl Strategy<Value = Kind> {
        prop_oneof![
            Just(Kind::Http),
            Just(Kind::Tcp),
            Just(Kind::Udp),
            Just(Kind::Http2),
            Just(Kind::Http2Tls)
        ]
    }

    fn options() -> impl Strategy<Value = ListenOptions> {
        let host = id("(\\*\\.)?([a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?\\.){0,2}[a-z]{1,63}");
        (vec(host, 0..4), any::<bool>())
            .prop_map(|(hosts, proxy_protocol)| ListenOptions { hosts, proxy_protocol })
    }

    fn listen() -> impl Strategy<Value = Listen> {
        (any::<u64>(), endpoint(), kind(), options()).prop_map(|(id, endpoint, kind, options)| Listen {
            id,
            endpoint,
            kind,
            options,
        })
    }

    fn hello() -> impl Strategy<Value = Hello> {
        let role = prop_oneof![Just(Role::Agent), Just(Role::Forwarder)];
        let token = text(600).prop_map(Secret::new);
        (
            (any::<u32>(), any::<u32>(), role, any::<u128>()),
            (option::of(text(Hello::MAX_NAME)), option::of(tenant()), option::of(token), vec(listen(), 0..5)),
            vec(id("[A-Za-z0-9._~-]{1,64}"), 0..4),
        )
            .prop_map(|((version, oldest, role, agent), (name, tenant, token, listens), avoid)| {
                Hello {
                    version,
                    oldest,
                    role,
                    agent: AgentId::from_bits(agent),
                    name,
                    tenant,
                    token,
                    listens,
                    avoid,
                }
            })
    }

    fn nodes() -> impl Strategy<Value = Vec<NodeAddress>> {
        let node = (id("[A-Za-z0-9._~-]{1,64}"), text(261));
        vec(node.prop_map(|(node, address)| NodeAddress { node, address }), 0..4)
    }

    fn welcome() -> impl Strategy<Value = Welcome> {
        (any::<u32>(), id("[A-Za-z0-9._~-]{1,64}"), text(64), nodes(), any::<u32>()).prop_map(
            |(version, node, cluster, nodes, max_listens)| Welcome {
                version,
                node,
                cluster,
                nodes,
                max_listens,
            },
        )
    }

    fn refusal() -> impl Strategy<Value = Refusal> {
        (any::<u32>(), vec(any::<char>(), 0..600)).prop_map(|(code, message)| {
            Refusal::new(Code::from_number(code % 20), message.into_iter().collect::<String>())
        })
    }

    fn go_away() -> impl Strategy<Value = GoAway> {
        let reason = prop_oneof![Just(GoAwayReason::Stopping), Just(GoAwayReason::Rebalance)];
        (reason, any::<u32>(), any::<u32>()).prop_map(|(reason, deadline, smear)| GoAway {
            reason,
            deadline: Duration::from_millis(deadline.into()),
            smear: Duration::from_millis(smear.into()),
        })
    }

    pub(super) fn control() -> impl Strategy<Value = Control> {
        prop_oneof![
            hello().prop_map(Control::Hello),
            welcome().prop_map(Control::Welcome),
            refusal().prop_map(Control::Refused),
            any::<u64>().prop_map(Control::Ping),
            any::<u64>().prop_map(Control::Pong),
            listen().prop_map(Control::Listen),
            any::<u64>().prop_map(Control::Listening),
            (any::<u64>(), refusal()).prop_map(|(id, refusal)| Control::ListenRefused(id, refusal)),
            any::<u64>().prop_map(Control::Unlisten),
            any::<u64>().prop_map(Control::Unlistened),
            nodes().prop_map(Control::Nodes),
            text(600).prop_map(|token| Control::Token(Secret::new(token))),
            vec(any::<u64>(), 0..40).prop_map(|flows| Control::Retire(Retire { flows })),
            go_away().prop_map(Control::GoAway),
            any::<u8>().prop_map(Control::Unsupported),
        ]
    }

    fn open() -> impl Strategy<Value = Open> {
        let hop = prop_oneof![Just(Hop::First), Just(Hop::Final)];
        let end = || option::of((any::<std::net::IpAddr>(), any::<u16>()).prop_map(Into::into));
        (
            (endpoint(), option::of(tenant()), kind(), hop),
            (option::of(agent()), end(), end(), option::of(text(Open::MAX_TRACE))),
        )
            .prop_map(|((endpoint, tenant, kind, hop), (agent, client, server, trace))| Open {
                endpoint,
                tenant,
                kind,
                hop,
                agent,
                client,
                server,
                trace,
            })
    }

    fn ask() -> impl Strategy<Value = Ask> {
        let tenants = option::of(vec(tenant(), 0..Ask::MAX_TENANTS));
        (text(300), any::<bool>(), vec(any::<u8>(), 0..100), tenants)
            .prop_map(|(path, act, body, tenants)| Ask { path, act, body: body.into(), tenants })
    }

    pub(super) fn flow() -> impl Strategy<Value = Flow> {
        prop_oneof![
            open().prop_map(Flow::Open),
            Just(Flow::Opened),
            refusal().prop_map(Flow::Refused),
            ask().prop_map(Flow::Ask),
            (100_u16..600).prop_map(Flow::Answer),
        ]
    }

    fn agent() -> impl Strategy<Value = AgentId> {
        any::<u128>().prop_map(AgentId::from_bits)
    }

    fn phase() -> impl Strategy<Value = Phase> {
        prop_oneof![Just(Phase::Starting), Just(Phase::Ready), Just(Phase::Draining)]
    }

    fn peer_hello() -> impl Strategy<Value = PeerHello> {
        let node = id("[A-Za-z0-9._~-]{1,64}");
        ((any::<u32>(), any::<u32>(), node, text(64)), (any::<u64>(), text(261), text(261), phase()))
            .prop_map(
                |((version, oldest, node, cluster), (incarnation, peer_address, link_address, phase))| {
                    PeerHello {
                        version,
                        oldest,
                        node,
                        cluster,
                        incarnation,
                        peer_address,
                        link_address,
                        phase,
                    }
                },
            )
    }

    fn route() -> impl Strategy<Value = PeerRoute> {
        // Peers are told of services that speak something newer, too.
        let kind = any::<u32>().prop_map(|number| Kind::from_number(number % 8));
        (tenant(), endpoint(), agent(), kind, options()).prop_map(
            |(tenant, endpoint, agent, kind, options)| PeerRoute { tenant, endpoint, agent, kind, options },
        )
    }

    fn routes() -> impl Strategy<Value = RouteUpdate> {
        (any::<bool>(), any::<bool>(), any::<u64>(), vec(route(), 0..6), vec(route(), 0..6)).prop_map(
            |(snapshot, more, sequence, added, removed)| RouteUpdate {
                snapshot,
                more,
                sequence,
                added,
                removed,
            },
        )
    }

    fn load() -> impl Strategy<Value = Load> {
        (any::<u32>(), vec((agent(), any::<u32>()), 0..20), vec(agent(), 0..20))
            .prop_map(|(agent_links, agents, suspects)| Load { agent_links, agents, suspects })
    }

    pub(super) fn peer() -> impl Strategy<Value = Peer> {
        prop_oneof![
            peer_hello().prop_map(Peer::Hello),
            peer_hello().prop_map(Peer::Welcome),
            refusal().prop_map(Peer::Refused),
            any::<u64>().prop_map(Peer::Ping),
            any::<u64>().prop_map(Peer::Pong),
            routes().prop_map(Peer::Routes),
            phase().prop_map(Peer::Phase),
            load().prop_map(Peer::Load),
            vec(any::<u64>(), 0..40).prop_map(|flows| Peer::Retire(Retire { flows })),
            any::<u8>().prop_map(Peer::Unsupported),
        ]
    }

    proptest! {
        #[test]
        fn a_control_frame_reads_back_as_it_was_written(sent in control()) {
            prop_assert_eq!(frame::<Control>(&bytes(&sent)).unwrap(), sent);
        }

        #[test]
        fn a_flow_frame_reads_back_as_it_was_written(sent in flow()) {
            prop_assert_eq!(frame::<Flow>(&bytes(&sent)).unwrap(), sent);
        }

        #[test]
        fn a_peer_frame_reads_back_as_it_was_written(sent in peer()) {
            prop_assert_eq!(frame::<Peer>(&bytes(&sent)).unwrap(), sent);
        }

        #[test]
        fn frames_read_back_one_after_the_other(sent in vec(control(), 0..6)) {
            let stream: Vec<_> = sent.iter().flat_map(bytes).collect();
            let read: Vec<_> = decode_all::<Control>(&stream).into_iter().map(Result::unwrap).collect();
            prop_assert_eq!(read, sent);
        }

        #[test]
        fn peer_frames_read_back_one_after_the_other(sent in vec(peer(), 0..6)) {
            let stream: Vec<_> = sent.iter().flat_map(bytes).collect();
            let read: Vec<_> = decode_all::<Peer>(&stream).into_iter().map(Result::unwrap).collect();
            prop_assert_eq!(read, sent);
        }
    }

    #[test]
    fn times_that_do_not_fit_are_the_longest_that_do() {
        let away = GoAway {
            reason: GoAwayReason::Stopping,
            deadline: Duration::MAX,
            smear: Duration::from_micros(1999),
        };
        let Control::GoAway(read) = frame(&bytes(&Control::GoAway(away))).unwrap() else { panic!() };
        assert_eq!(read.deadline, Duration::from_millis(u32::MAX.into()));
        assert_eq!(read.smear, Duration::from_millis(1));
    }
}

/// Decodes until nothing more comes, and holds each step to what `decode` promises about the bytes that it takes.
fn decode_all<F: Frame + Debug>(bytes: &[u8]) -> Vec<Result<F, DecodeError>> {
    let (mut buf, mut rest, mut seen) = (BytesMut::from(bytes), bytes, Vec::new());
    loop {
        let whole = match *rest {
            [_, a, b, c, ..] => HEADER_LEN + (usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)),
            _ => HEADER_LEN,
        };
        match decode::<F>(&mut buf) {
            Ok(None) => {
                assert!(rest.len() < whole, "a whole frame was not read");
                assert_eq!(buf, rest, "an incomplete frame was touched");
                return seen;
            }
            Err(error @ DecodeError::TooLong { .. }) => {
                assert!(whole > HEADER_LEN + F::MAX_BODY);
                assert_eq!(buf, rest, "a frame that is too long was touched");
                seen.push(Err(error));
                return seen;
            }
            decoded => {
                rest = &rest[whole..];
                assert_eq!(buf, rest, "not exactly the frame was taken: {decoded:?}");
                seen.push(decoded.map(|frame| frame.unwrap()));
            }
        }
    }
}

mod whatever_arrives {
    use super::{
        round_trips::{control, flow, peer},
        *,
    };

    /// What may follow a frame: the beginning of another whose length is over every bound.
    const BEHIND: [u8; 6] = [0xff; 6];

    /// A frame of a type that exists, or nearly, around any body.
    fn framed() -> impl Strategy<Value = Vec<u8>> {
        (0_u8..0x38, vec(any::<u8>(), 0..200)).prop_map(|(kind, body)| raw(kind, &body))
    }

    fn each_cut_waits_for_the_rest<F: Frame + Debug + PartialEq>(sent: &F) {
        let whole = bytes(sent);
        for cut in 0..whole.len() {
            let mut buf = BytesMut::from(&whole[..cut]);
            assert_eq!(decode::<F>(&mut buf).unwrap(), None, "cut at {cut}");
            assert_eq!(buf, whole[..cut]);
            buf.extend_from_slice(&whole[cut..]);
            assert_eq!(decode(&mut buf).unwrap().as_ref(), Some(sent), "cut at {cut}");
        }
    }

    fn what_follows_changes_nothing<F: Frame + Debug + PartialEq>(bytes: &[u8]) {
        let alone = decode_all::<F>(bytes);
        let followed = decode_all::<F>(&[bytes, &BEHIND].concat());
        // What was incomplete alone may have become something else with more bytes.
        assert_eq!(alone, followed[..alone.len()]);
    }

    #[test]
    fn a_frame_cut_at_any_position_waits_for_the_rest() {
        controls().iter().for_each(each_cut_waits_for_the_rest);
        flows().iter().for_each(each_cut_waits_for_the_rest);
        peers().iter().for_each(each_cut_waits_for_the_rest);
    }

    #[test]
    fn each_flipped_bit_of_each_frame_is_taken_as_the_contract_says() {
        fn flip<F: Frame + Debug + PartialEq>(sent: &F) {
            let mut whole = bytes(sent);
            for bit in 0..whole.len() * 8 {
                whole[bit / 8] ^= 1 << (bit % 8);
                what_follows_changes_nothing::<F>(&whole);
                whole[bit / 8] ^= 1 << (bit % 8);
            }
        }
        controls().iter().for_each(flip);
        flows().iter().for_each(flip);
        peers().iter().for_each(flip);
    }

    #[test]
    fn a_body_cut_short_is_malformed_or_another_frame_and_the_next_is_read() {
        fn cut<F: Frame + Debug + PartialEq>(sent: &[F], next: &F) {
            for sent in sent {
                let (kind, body) = sent.to_parts();
                for cut in 0..body.len() {
                    let read = decode_all::<F>(&[raw(kind, &body[..cut]), bytes(next)].concat());
                    assert_eq!(read.len(), 2, "{kind:#x} cut at {cut}");
                    assert_eq!(read[1].as_ref(), Ok(next));
                }
            }
        }
        cut(&controls(), &Control::Ping(9));
        cut(&flows(), &Flow::Opened);
        cut(&peers(), &Peer::Ping(9));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_as_the_contract_says(bytes in vec(any::<u8>(), 0..600)) {
            what_follows_changes_nothing::<Control>(&bytes);
            what_follows_changes_nothing::<Flow>(&bytes);
            what_follows_changes_nothing::<Peer>(&bytes);
        }

        #[test]
        fn any_bodies_are_taken_as_the_contract_says(frames in vec(framed(), 0..5)) {
            let bytes = frames.concat();
            what_follows_changes_nothing::<Control>(&bytes);
            what_follows_changes_nothing::<Flow>(&bytes);
            what_follows_changes_nothing::<Peer>(&bytes);
            prop_assert_eq!(decode_all::<Control>(&bytes).len(), frames.len());
            prop_assert_eq!(decode_all::<Peer>(&bytes).len(), frames.len());
        }

        #[test]
        fn changed_control_frames_are_taken_as_the_contract_says(
            sent in control(), at in any::<Index>(), change in 1_u8..,
        ) {
            let mut bytes = bytes(&sent);
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            what_follows_changes_nothing::<Control>(&bytes);
        }

        #[test]
        fn changed_flow_frames_are_taken_as_the_contract_says(
            sent in flow(), at in any::<Index>(), change in 1_u8..,
        ) {
            let mut bytes = bytes(&sent);
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            what_follows_changes_nothing::<Flow>(&bytes);
        }

        #[test]
        fn changed_peer_frames_are_taken_as_the_contract_says(
            sent in peer(), at in any::<Index>(), change in 1_u8..,
        ) {
            let mut bytes = bytes(&sent);
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            what_follows_changes_nothing::<Peer>(&bytes);
        }

        #[test]
        fn cut_control_frames_wait_for_the_rest(sent in control(), cut in any::<Index>()) {
            let whole = bytes(&sent);
            prop_assert_eq!(decode_all::<Control>(&whole[..cut.index(whole.len())]), []);
        }

        #[test]
        fn cut_peer_frames_wait_for_the_rest(sent in peer(), cut in any::<Index>()) {
            let whole = bytes(&sent);
            prop_assert_eq!(decode_all::<Peer>(&whole[..cut.index(whole.len())]), []);
        }
    }
}

/// A frame made by hand.
fn raw(kind: u8, body: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[kind, a, b, c], body].concat()
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
    out
}

/// A protobuf field that holds a number.
fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

/// A protobuf field that holds a text, bytes or a message.
fn block(field: u64, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    [varint(field << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
}

mod evolution {
    use super::*;

    /// A field of each wire type, with numbers that no message has.
    fn unknown_fields() -> Vec<u8> {
        [
            number(15, 7),
            block(16, "later"),
            [varint(17 << 3 | 1), vec![1; 8]].concat(),
            [varint(18 << 3 | 5), vec![2; 4]].concat(),
            block(536_870_911, number(1, 1)),
        ]
        .concat()
    }

    fn skips_unknown_fields<F: Frame + Debug + PartialEq>(sent: &F) {
        let (kind, body) = sent.to_parts();
        assert_eq!(frame::<F>(&raw(kind, &[unknown_fields(), body.clone()].concat())).as_ref(), Ok(sent));
        assert_eq!(frame::<F>(&raw(kind, &[body, unknown_fields()].concat())).as_ref(), Ok(sent));
    }

    #[test]
    fn fields_that_are_not_known_are_skipped() {
        controls().iter().for_each(skips_unknown_fields);
        flows().iter().for_each(skips_unknown_fields);
        peers().iter().for_each(skips_unknown_fields);
    }

    #[test]
    fn fields_that_are_not_known_are_skipped_inside_routes_and_loads_too() {
        let inner = [block(1, "acme"), block(2, "web"), block(3, agent().0), number(4, 1), unknown_fields()];
        let body = [number(1, 1), number(3, 300), block(4, inner.concat())].concat();
        assert_eq!(frame(&raw(0x32, &body)), Ok(Peer::Routes(snapshot())));
        let inner = [block(1, agent().0), number(2, 12), unknown_fields()].concat();
        assert_eq!(frame(&raw(0x34, &[number(1, 3), block(2, inner)].concat())), Ok(Peer::Load(load())));
    }

    #[test]
    fn fields_that_are_not_known_are_skipped_inside_a_listen_too() {
        let (kind, body) = Control::Hello(Hello { listens: Vec::new(), ..hello() }).to_parts();
        let inner = [number(1, 1), block(2, "web"), number(3, 1), unknown_fields()].concat();
        let Control::Hello(read) = frame(&raw(kind, &[body, block(8, inner)].concat())).unwrap() else {
            panic!()
        };
        assert_eq!(read.listens, [listen(1, "web", Kind::Http)]);
    }

    #[test]
    fn a_frame_that_is_not_known_is_skipped_and_the_next_is_read() {
        let stream = [raw(0x7e, b"from the future"), bytes(&Control::Ping(1))].concat();
        assert_eq!(
            decode_all::<Control>(&stream),
            [Err(DecodeError::Unknown { kind: 0x7e }), Ok(Control::Ping(1))]
        );
        let stream = [raw(0x7e, b"from the future"), bytes(&Peer::Ping(1))].concat();
        assert_eq!(
            decode_all::<Peer>(&stream),
            [Err(DecodeError::Unknown { kind: 0x7e }), Ok(Peer::Ping(1))]
        );
        let stream = [raw(0x7e, b""), bytes(&Flow::Opened)].concat();
        assert_eq!(decode_all::<Flow>(&stream), [Err(DecodeError::Unknown { kind: 0x7e }), Ok(Flow::Opened)]);
    }

    #[test]
    fn frames_of_one_kind_of_stream_are_not_known_on_the_other() {
        let known = |kind| Flow::from_parts(kind, Bytes::new()).is_some();
        assert_eq!(
            (0..=u8::MAX).filter(|kind| known(*kind)).collect::<Vec<_>>(),
            [0x03, 0x20, 0x21, 0x22, 0x23]
        );
        let known = |kind| Control::from_parts(kind, Bytes::new()).is_some();
        assert_eq!(
            (0..=u8::MAX).filter(|kind| known(*kind)).collect::<Vec<_>>(),
            (0x01..=0x0f).collect::<Vec<_>>()
        );
        let known = |kind| Peer::from_parts(kind, Bytes::new()).is_some();
        assert_eq!(
            (0..=u8::MAX).filter(|kind| known(*kind)).collect::<Vec<_>>(),
            [0x03, 0x04, 0x05, 0x0d, 0x0f, 0x30, 0x31, 0x32, 0x33, 0x34]
        );
    }

    #[test]
    fn a_code_of_a_newer_version_is_kept() {
        let read = frame::<Control>(&raw(0x03, &[number(1, 4000), block(2, "why not")].concat()));
        assert_eq!(read, Ok(Control::Refused(refusal(Code::Other(4000), "why not"))));
    }

    #[test]
    fn a_goodbye_for_an_unknown_reason_is_one_of_a_side_that_stops() {
        let Control::GoAway(away) = frame(&raw(0x0e, &number(1, 99))).unwrap() else { panic!() };
        assert_eq!(away.reason, GoAwayReason::Stopping);
    }

    #[test]
    fn retired_flows_are_read_packed_and_one_by_one() {
        let packed = block(1, [varint(1), varint(300)].concat());
        let single = [number(1, 1), number(1, 300)].concat();
        let retire = Ok(Control::Retire(Retire { flows: vec![1, 300] }));
        assert_eq!(frame(&raw(0x0d, &packed)), retire);
        assert_eq!(frame(&raw(0x0d, &single)), retire);
        let retire = Ok(Peer::Retire(Retire { flows: vec![1, 300] }));
        assert_eq!(frame(&raw(0x0d, &packed)), retire);
        assert_eq!(frame(&raw(0x0d, &single)), retire);
    }

    #[test]
    fn the_last_of_a_repeated_single_field_counts() {
        assert_eq!(frame(&raw(0x04, &[number(1, 1), number(1, 2)].concat())), Ok(Control::Ping(2)));
    }

    #[test]
    fn an_absent_number_is_zero() {
        assert_eq!(frame(&raw(0x04, &[])), Ok(Control::Ping(0)));
        assert_eq!(bytes(&Control::Ping(0)), raw(0x04, &[]));
    }

    #[test]
    fn routes_and_loads_of_nothing_have_no_bytes() {
        let nothing = RouteUpdate { snapshot: false, sequence: 0, added: Vec::new(), ..snapshot() };
        assert_eq!(bytes(&Peer::Routes(nothing.clone())), raw(0x32, &[]));
        assert_eq!(frame(&raw(0x32, &[])), Ok(Peer::Routes(nothing)));
        let idle = Peer::Load(Load { agent_links: 0, agents: Vec::new(), suspects: Vec::new() });
        assert_eq!(bytes(&idle), raw(0x34, &[]));
        assert_eq!(frame(&raw(0x34, &[])), Ok(idle));
    }
}

/// Each bound: what reaches it is read, one more is malformed, and the frame behind it is read all the same.
mod bounds {
    use super::*;

    fn accepts<F: Frame + Debug>(bytes: &[u8]) {
        let read = decode_all::<F>(bytes);
        assert!(matches!(read[..], [Ok(_)]), "{read:?}");
    }

    fn refuses<F: Frame + Debug>(bytes: &[u8], part: &str) {
        let next = bytes_of_a_refusal();
        let read = decode_all::<F>(&[bytes, &next].concat());
        match &read[..] {
            [Err(DecodeError::Malformed { kind, reason }), Ok(_)] => {
                assert_eq!(*kind, bytes[0]);
                assert!(reason.contains(part), "{reason:?} does not name {part:?}");
            }
            other => panic!("{other:?}"),
        }
    }

    /// A frame that may stand on every kind of stream.
    fn bytes_of_a_refusal() -> Vec<u8> {
        bytes(&Flow::Refused(refusal(Code::Busy, "")))
    }

    fn with_hello(change: impl FnOnce(&mut Hello)) -> Vec<u8> {
        let mut hello = hello();
        change(&mut hello);
        bytes(&Control::Hello(hello))
    }

    #[test]
    fn token_in_hello() {
        let token = |len| with_hello(|hello| hello.token = Some(Secret::new("t".repeat(len))));
        accepts::<Control>(&token(16_384));
        refuses::<Control>(&token(16_385), "token");
    }

    #[test]
    fn token_alone() {
        let token = |len| bytes(&Control::Token(Secret::new("t".repeat(len))));
        accepts::<Control>(&token(16_384));
        refuses::<Control>(&token(16_385), "token");
    }

    #[test]
    fn name_of_an_agent() {
        let name = |len| with_hello(|hello| hello.name = Some("n".repeat(len)));
        accepts::<Control>(&name(64));
        refuses::<Control>(&name(65), "name");
    }

    #[test]
    fn listens_in_hello() {
        let listens = |count| {
            with_hello(|hello| hello.listens = (0..count).map(|id| listen(id, "web", Kind::Tcp)).collect())
        };
        accepts::<Control>(&listens(256));
        refuses::<Control>(&listens(257), "257 listens and hosts");
        // Hosts take the same room.
        let mapped = |count| {
            let one = Listen { options: mapped(&["a.example"; 3]), ..listen(1, "web", Kind::Tcp) };
            with_hello(|hello| hello.listens = vec![one; count])
        };
        accepts::<Control>(&mapped(64));
        refuses::<Control>(&mapped(65), "260 listens and hosts");
    }

    #[test]
    fn hosts_of_a_listen() {
        let listen = |hosts: &[&str]| {
            let hosts: Vec<_> = hosts.iter().map(|host| block(4, host)).collect();
            raw(0x06, &[number(1, 1), block(2, "web"), number(3, 1), hosts.concat()].concat())
        };
        accepts::<Control>(&listen(&["a.example"; 32]));
        refuses::<Control>(&listen(&["a.example"; 33]), "33 hosts");
        for bad in ["", "a..example", "a b.example", "10.0.0.1", "a.*", &"a".repeat(64)] {
            refuses::<Control>(&listen(&["a.example", bad]), "not a host name");
        }
    }

    #[test]
    fn length_of_an_agent_id() {
        let hello =
            |len| raw(0x01, &[number(1, 1), number(2, 1), number(3, 1), block(4, vec![0; len])].concat());
        accepts::<Control>(&hello(16));
        refuses::<Control>(&hello(15), "agent id");
        refuses::<Control>(&hello(17), "agent id");
        refuses::<Control>(&hello(0), "agent id");
    }

    #[test]
    fn nodes_in_welcome() {
        let nodes =
            |count| bytes(&Control::Welcome(Welcome { nodes: vec![node("n1", "n1:1"); count], ..welcome() }));
        accepts::<Control>(&nodes(256));
        refuses::<Control>(&nodes(257), "nodes");
    }

    #[test]
    fn nodes_alone() {
        let nodes = |count| bytes(&Control::Nodes(vec![node("n1", "n1:1"); count]));
        accepts::<Control>(&nodes(256));
        refuses::<Control>(&nodes(257), "nodes");
    }

    #[test]
    fn address_of_a_node() {
        let address = |len| bytes(&Control::Nodes(vec![node("n1", &"a".repeat(len))]));
        accepts::<Control>(&address(261));
        refuses::<Control>(&address(262), "address");
    }

    #[test]
    fn name_of_a_node() {
        let name = |text: &str| raw(0x0b, &block(1, [block(1, text), block(2, "n1:1")].concat()));
        accepts::<Control>(&name(&"n".repeat(64)));
        refuses::<Control>(&name(&"n".repeat(65)), "node name");
        refuses::<Control>(&name(""), "node name");
        refuses::<Control>(&name("n 1"), "node name");
    }

    #[test]
    fn name_of_a_cluster() {
        let cluster = |len| bytes(&Control::Welcome(Welcome { cluster: "c".repeat(len), ..welcome() }));
        accepts::<Control>(&cluster(64));
        refuses::<Control>(&cluster(65), "cluster");
    }

    #[test]
    fn message_of_a_refusal() {
        let refusal = |len: usize| refusal(Code::Busy, &"m".repeat(len));
        accepts::<Control>(&bytes(&Control::Refused(refusal(512))));
        refuses::<Control>(&bytes(&Control::Refused(refusal(513))), "message");
        accepts::<Control>(&bytes(&Control::ListenRefused(1, refusal(512))));
        refuses::<Control>(&bytes(&Control::ListenRefused(1, refusal(513))), "message");
        accepts::<Flow>(&bytes(&Flow::Refused(refusal(512))));
        refuses::<Flow>(&bytes(&Flow::Refused(refusal(513))), "message");
        accepts::<Peer>(&bytes(&Peer::Refused(refusal(512))));
        refuses::<Peer>(&bytes(&Peer::Refused(refusal(513))), "message");
    }

    #[test]
    fn flows_of_a_retirement() {
        let retire = |count| bytes(&Control::Retire(Retire { flows: vec![u64::MAX; count] }));
        accepts::<Control>(&retire(1024));
        refuses::<Control>(&retire(1025), "flows");
        let retire = |count| bytes(&Peer::Retire(Retire { flows: vec![u64::MAX; count] }));
        accepts::<Peer>(&retire(1024));
        refuses::<Peer>(&retire(1025), "flows");
    }

    #[test]
    fn name_of_an_endpoint() {
        let open = |text: &str| raw(0x20, &[block(1, text), number(3, 2)].concat());
        accepts::<Flow>(&open(&"e".repeat(128)));
        refuses::<Flow>(&open(&"e".repeat(129)), "endpoint name");
        refuses::<Flow>(&open(""), "endpoint name");
        refuses::<Flow>(&open("a/b"), "endpoint name");
        let listen = |text: &str| raw(0x06, &[number(1, 1), block(2, text), number(3, 2)].concat());
        accepts::<Control>(&listen(&"e".repeat(128)));
        refuses::<Control>(&listen(&"e".repeat(129)), "endpoint name");
        refuses::<Control>(&listen(""), "endpoint name");
    }

    #[test]
    fn name_of_a_tenant() {
        let open = |text: &str| raw(0x20, &[block(1, "db"), block(2, text), number(3, 2)].concat());
        accepts::<Flow>(&open(&"t".repeat(64)));
        refuses::<Flow>(&open(&"t".repeat(65)), "tenant name");
        refuses::<Flow>(&open("é"), "tenant name");
        let hello = |text: &str| raw(0x01, &[number(3, 1), block(4, [0; 16]), block(6, text)].concat());
        accepts::<Control>(&hello(&"t".repeat(64)));
        refuses::<Control>(&hello(&"t".repeat(65)), "tenant name");
    }

    #[test]
    fn trace_of_a_flow() {
        let open = |len| bytes(&Flow::Open(Open { trace: Some("0".repeat(len)), ..open() }));
        accepts::<Flow>(&open(128));
        refuses::<Flow>(&open(129), "trace");
    }

    #[test]
    fn parts_of_a_question() {
        let bytes = |ask| bytes(&Flow::Ask(ask));
        let path = |len| bytes(Ask { path: "x".repeat(len), ..ask() });
        accepts::<Flow>(&path(1));
        accepts::<Flow>(&path(1024));
        refuses::<Flow>(&path(0), "path");
        refuses::<Flow>(&path(1025), "path");
        let body = |len| bytes(Ask { body: vec![0; len].into(), ..act() });
        accepts::<Flow>(&body(512));
        refuses::<Flow>(&body(513), "body");
        let tenants = |count| bytes(Ask { tenants: Some(vec![read("acme"); count]), ..ask() });
        accepts::<Flow>(&tenants(0));
        accepts::<Flow>(&tenants(32));
        refuses::<Flow>(&tenants(33), "tenants");
        refuses::<Flow>(&raw(0x22, &[block(1, "/"), block(5, "")].concat()), "tenant name");
    }

    #[test]
    fn status_of_an_answer() {
        let answer = |status| raw(0x23, &number(1, status));
        accepts::<Flow>(&answer(100));
        accepts::<Flow>(&answer(599));
        for none in [0, 99, 600, 70_000] {
            refuses::<Flow>(&answer(none), "status");
        }
    }

    #[test]
    fn agent_of_a_flow() {
        let open = |agent: &[u8]| raw(0x20, &[block(1, "db"), number(3, 2), block(7, agent)].concat());
        let read = |bytes: &[u8]| match frame(bytes) {
            Ok(Flow::Open(open)) => open.agent,
            other => panic!("{other:?}"),
        };
        assert_eq!(read(&open(&agent().0)), Some(agent()));
        assert_eq!(read(&raw(0x20, &[block(1, "db"), number(3, 2)].concat())), None);
        // An empty field is an absent one.
        assert_eq!(read(&open(&[])), None);
        for len in [1, 15, 17, 32] {
            refuses::<Flow>(&open(&vec![0; len]), "agent id");
        }
        // All zeroes are an id like any other.
        assert_eq!(read(&open(&[0; 16])), Some(AgentId::from_bits(0)));
    }

    fn with_peer_hello(change: impl FnOnce(&mut PeerHello)) -> [Vec<u8>; 2] {
        let mut hello = peer_hello();
        change(&mut hello);
        [bytes(&Peer::Hello(hello.clone())), bytes(&Peer::Welcome(hello))]
    }

    #[test]
    fn cluster_and_addresses_of_a_peer() {
        for (what, max, set) in [
            ("cluster name", 64, (|hello, text| hello.cluster = text) as fn(&mut PeerHello, String)),
            ("peer address", 261, |hello, text| hello.peer_address = text),
            ("link address", 261, |hello, text| hello.link_address = text),
        ] {
            let text = |len| with_peer_hello(|hello| set(hello, "x".repeat(len)));
            text(max).iter().for_each(|bytes| accepts::<Peer>(bytes));
            text(max + 1).iter().for_each(|bytes| refuses::<Peer>(bytes, what));
        }
        for (what, set) in [
            ("peer address is empty", (|hello| hello.peer_address.clear()) as fn(&mut PeerHello)),
            ("link address is empty", |hello| hello.link_address.clear()),
        ] {
            with_peer_hello(set).iter().for_each(|bytes| refuses::<Peer>(bytes, what));
        }
    }

    /// What every `PeerHello` must have, but for its name and phase.
    fn addresses() -> Vec<u8> {
        [block(6, "n1:8003"), block(7, "n1:8001")].concat()
    }

    #[test]
    fn name_of_a_peer() {
        for kind in [0x30, 0x31] {
            let name = |text: &str| raw(kind, &[block(3, text), addresses(), number(8, 1)].concat());
            accepts::<Peer>(&name(&"n".repeat(64)));
            refuses::<Peer>(&name(&"n".repeat(65)), "node name");
            refuses::<Peer>(&name(""), "node name");
            refuses::<Peer>(&name("n 1"), "node name");
        }
    }

    #[test]
    fn numbers_of_phases() {
        let hello = |phase| raw(0x30, &[block(3, "n1"), addresses(), number(8, phase)].concat());
        let alone = |phase| raw(0x33, &number(1, phase));
        for phase in 1..=3 {
            accepts::<Peer>(&hello(phase));
            accepts::<Peer>(&alone(phase));
        }
        for phase in [0, 4] {
            refuses::<Peer>(&hello(phase), &format!("phase {phase}"));
            refuses::<Peer>(&alone(phase), &format!("phase {phase}"));
        }
        // Not the first 32 bits alone count.
        refuses::<Peer>(&alone((1 << 32) + 1), "phase");
    }

    #[test]
    fn routes_of_an_update() {
        let update = |added, removed| {
            let [added, removed] = [added, removed].map(|count| vec![route("web", Kind::Http); count]);
            bytes(&Peer::Routes(RouteUpdate { added, removed, ..snapshot() }))
        };
        accepts::<Peer>(&update(512, 0));
        accepts::<Peer>(&update(0, 512));
        accepts::<Peer>(&update(200, 312));
        refuses::<Peer>(&update(513, 0), "513 routes");
        refuses::<Peer>(&update(0, 513), "513 routes");
        refuses::<Peer>(&update(200, 313), "513 routes");
        let mapped = |added, removed| {
            let one = PeerRoute { options: mapped(&["a.example"; 3]), ..route("web", Kind::Http) };
            let [added, removed] = [added, removed].map(|count| vec![one.clone(); count]);
            bytes(&Peer::Routes(RouteUpdate { added, removed, ..snapshot() }))
        };
        accepts::<Peer>(&mapped(100, 28));
        refuses::<Peer>(&mapped(100, 29), "516 routes and hosts");
    }

    #[test]
    fn parts_of_a_route() {
        for field in [4, 5] {
            let route = |tenant: &str, endpoint: &str, agent: usize| {
                let parts = [block(1, tenant), block(2, endpoint), block(3, vec![0; agent]), number(4, 9)];
                raw(0x32, &block(field, parts.concat()))
            };
            accepts::<Peer>(&route(&"t".repeat(64), &"e".repeat(128), 16));
            refuses::<Peer>(&route(&"t".repeat(65), "web", 16), "tenant name");
            // On a link of many tenants none is the link's own.
            refuses::<Peer>(&route("", "web", 16), "tenant name");
            refuses::<Peer>(&route("acme", &"e".repeat(129), 16), "endpoint name");
            refuses::<Peer>(&route("acme", "", 16), "endpoint name");
            refuses::<Peer>(&route("acme", "a/b", 16), "endpoint name");
            for agent in [0, 15, 17] {
                refuses::<Peer>(&route("acme", "web", agent), "agent id");
            }
            let hosts = |count, host: &str| {
                let route =
                    [block(1, "acme"), block(2, "web"), block(3, [0; 16]), block(5, host).repeat(count)];
                raw(0x32, &block(field, route.concat()))
            };
            accepts::<Peer>(&hosts(32, "a.example"));
            refuses::<Peer>(&hosts(33, "a.example"), "33 hosts");
            refuses::<Peer>(&hosts(1, "a/b"), "not a host name");
        }
    }

    #[test]
    fn agents_of_a_load() {
        let load = |agents, suspects| {
            let (agents, suspects) = (vec![(agent(), 1); agents], vec![agent(); suspects]);
            bytes(&Peer::Load(Load { agent_links: 1, agents, suspects }))
        };
        accepts::<Peer>(&load(1024, 1024));
        refuses::<Peer>(&load(1025, 0), "agents");
        refuses::<Peer>(&load(0, 1025), "suspects");
        let load = |len| raw(0x34, &block(2, [block(1, vec![0; len]), number(2, 1)].concat()));
        accepts::<Peer>(&load(16));
        for len in [0, 15, 17] {
            refuses::<Peer>(&load(len), "agent id");
        }
    }

    #[test]
    fn addresses_of_a_clients_connection() {
        for (field, name) in [(5, "client"), (8, "server")] {
            let open = |text: &str| raw(0x20, &[block(1, "db"), number(3, 2), block(field, text)].concat());
            accepts::<Flow>(&open("[2001:db8::1]:65535"));
            for bad in ["192.0.2.1", "192.0.2.1:65536", "localhost:80", "2001:db8::1"] {
                refuses::<Flow>(&open(bad), name);
            }
        }
    }

    #[test]
    fn numbers_of_role_and_kind() {
        let hello = |role| raw(0x01, &[number(3, role), block(4, [0; 16])].concat());
        accepts::<Control>(&hello(2));
        refuses::<Control>(&hello(0), "role 0");
        refuses::<Control>(&hello(3), "role 3");
        let listen = |kind| raw(0x06, &[number(1, 1), block(2, "db"), number(3, kind)].concat());
        accepts::<Control>(&listen(2));
        // A kind of a newer version is for the receiver to refuse by name, not a broken frame.
        accepts::<Control>(&listen(3));
        let open = |kind| raw(0x20, &[block(1, "db"), number(3, kind)].concat());
        accepts::<Flow>(&open(1));
        accepts::<Flow>(&open(3));
    }

    #[test]
    fn type_of_an_unsupported_frame() {
        accepts::<Control>(&raw(0x0f, &number(1, 255)));
        refuses::<Control>(&raw(0x0f, &number(1, 256)), "one byte");
        accepts::<Peer>(&raw(0x0f, &number(1, 255)));
        refuses::<Peer>(&raw(0x0f, &number(1, 256)), "one byte");
    }

    #[test]
    fn texts_are_utf_8() {
        refuses::<Control>(&raw(0x03, &block(2, [0xff])), "UTF-8");
        refuses::<Flow>(&raw(0x20, &[block(1, [0xff]), number(3, 2)].concat()), "UTF-8");
        refuses::<Peer>(&raw(0x30, &[block(3, "n1"), block(4, [0xff]), number(8, 1)].concat()), "UTF-8");
    }

    #[test]
    fn length_of_a_frame() {
        fn bound<F: Frame + Debug + PartialEq>(max: usize) {
            assert_eq!(F::MAX_BODY, max);
            // A body of that length with one long unknown field, whose own header takes four bytes.
            let kind = bytes_of_a_refusal()[0];
            let len = max - 4 + usize::from(max < 1 << 14);
            accepts::<F>(&raw(kind, &block(15, vec![0; len])));
            // The header alone is enough to refuse one byte more.
            let header = &raw(kind, &vec![0; max + 1])[..HEADER_LEN];
            assert_eq!(decode_all::<F>(header), [Err(DecodeError::TooLong { kind, len: max + 1, max })]);
        }
        bound::<Control>(128 * 1024);
        bound::<Flow>(4 * 1024);
        bound::<Peer>(192 * 1024);
    }

    #[test]
    fn the_largest_frames_fit() {
        let text = |len| "x".repeat(len);
        let host: HostPattern = read(&["*".into(), text(61), text(63), text(63), text(63)].join("."));
        assert_eq!(host.as_str().len(), HostPattern::MAX_LEN);
        let hosts = |count| ListenOptions { hosts: vec![host.clone(); count], proxy_protocol: true };
        let long = Listen { id: u64::MAX, endpoint: read(&text(128)), kind: Kind::Tcp, options: hosts(31) };
        accepts::<Control>(&with_hello(|hello| {
            *hello = Hello {
                version: u32::MAX,
                oldest: u32::MAX,
                role: Role::Forwarder,
                agent: AgentId::from_bits(u128::MAX),
                name: Some(text(64)),
                tenant: Some(read(&text(64))),
                token: Some(Secret::new(text(16_384))),
                listens: vec![long; 8],
                avoid: vec![read(&text(64)); 16],
            }
        }));
        let nodes = vec![node(&text(64), &text(261)); 256];
        accepts::<Control>(&bytes(&Control::Nodes(nodes.clone())));
        accepts::<Control>(&bytes(&Control::Welcome(Welcome {
            version: u32::MAX,
            node: read(&text(64)),
            cluster: text(64),
            nodes,
            max_listens: u32::MAX,
        })));
        accepts::<Flow>(&bytes(&Flow::Open(Open {
            endpoint: read(&text(128)),
            tenant: Some(read(&text(64))),
            kind: Kind::Tcp,
            hop: Hop::Final,
            agent: Some(AgentId::from_bits(u128::MAX)),
            client: Some(read("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff%4294967295]:65535")),
            server: Some(read("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff%4294967295]:65535")),
            trace: Some(text(128)),
        })));
        accepts::<Flow>(&bytes(&Flow::Ask(Ask {
            path: text(1024),
            act: true,
            body: vec![0; 512].into(),
            tenants: Some(vec![read(&text(64)); 32]),
        })));
        let [hello, welcome] = with_peer_hello(|hello| {
            *hello = PeerHello {
                version: u32::MAX,
                oldest: u32::MAX,
                node: read(&text(64)),
                cluster: text(64),
                incarnation: u64::MAX,
                peer_address: text(261),
                link_address: text(261),
                phase: Phase::Draining,
            }
        });
        accepts::<Peer>(&hello);
        accepts::<Peer>(&welcome);
        let route = PeerRoute {
            tenant: read(&text(64)),
            endpoint: read(&text(128)),
            agent: AgentId::from_bits(u128::MAX),
            kind: Kind::Other(u32::MAX),
            options: ListenOptions::default(),
        };
        let mapped = PeerRoute { options: hosts(31), ..route.clone() };
        for added in [vec![route; 512], vec![mapped; 16]] {
            accepts::<Peer>(&bytes(&Peer::Routes(RouteUpdate {
                snapshot: true,
                more: true,
                sequence: u64::MAX,
                added,
                removed: Vec::new(),
            })));
        }
        accepts::<Peer>(&bytes(&Peer::Load(Load {
            agent_links: u32::MAX,
            agents: vec![(AgentId::from_bits(u128::MAX), u32::MAX); 1024],
            suspects: vec![AgentId::from_bits(u128::MAX); 1024],
        })));
    }
}

mod packets {
    use super::*;

    #[test]
    fn a_datagram_begins_with_its_stream_as_quic_writes_numbers() {
        // The examples of RFC 9000 §A.1, and the edges.
        for (stream, bytes) in [
            (0, "00"),
            (37, "25"),
            (63, "3f"),
            (64, "4040"),
            (15_293, "7bbd"),
            (16_383, "7fff"),
            (16_384, "80004000"),
            (494_878_333, "9d7f3e7d"),
            ((1 << 30) - 1, "bfffffff"),
            (1 << 30, "c000000040000000"),
            (151_288_809_941_952_652, "c2197c5eff14e88c"),
            ((1 << 62) - 1, "ffffffffffffffff"),
        ] {
            let datagram = encode_datagram(stream, &PACKET);
            assert_eq!(hex(&datagram), format!("{bytes}deadbeef"), "{stream}");
            assert_eq!(split_datagram(datagram), Some((stream, Bytes::from_static(&PACKET))));
        }
        // A number may take more room than it needs.
        assert_eq!(split_datagram(Bytes::from_static(&[0x40, 0x25])), Some((37, Bytes::new())));
        for short in [&[][..], &[0x40], &[0x80, 0, 0], &[0xc0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(split_datagram(Bytes::from_static(short)), None, "{short:02x?}");
        }
    }

    #[test]
    fn a_packet_on_a_stream_may_be_empty_and_as_long_as_its_length_says() {
        assert_eq!(encode_packet(&[]).as_deref(), Some(&[0, 0][..]));
        assert_eq!(encode_packet(&[7; MAX_PACKET]).map(|bytes| bytes.len()), Some(2 + MAX_PACKET));
        assert_eq!(encode_packet(&[7; MAX_PACKET + 1]), None);
    }

    proptest! {
        #[test]
        fn packets_come_back_whole_however_their_stream_is_cut(
            packets in vec(vec(any::<u8>(), 0..300), 0..20), cuts in vec(1_usize..400, 1..40),
        ) {
            let stream: Vec<u8> = packets.iter().flat_map(|packet| encode_packet(packet).unwrap()).collect();
            let (mut left, mut buf, mut read) = (&stream[..], BytesMut::new(), Vec::new());
            for cut in cuts.iter().cycle() {
                let (piece, rest) = left.split_at((*cut).min(left.len()));
                buf.extend_from_slice(piece);
                left = rest;
                read.extend(std::iter::from_fn(|| split_packet(&mut buf)));
                if left.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(read, packets);
            prop_assert!(buf.is_empty());
        }

        #[test]
        fn whatever_the_bytes_a_datagram_is_split_or_ignored(bytes in vec(any::<u8>(), 0..40)) {
            if let Some((stream, packet)) = split_datagram(Bytes::from(bytes.clone())) {
                prop_assert!(stream < 1 << 62 && bytes.ends_with(&packet));
            }
        }
    }
}

mod documents {
    use super::*;

    /// The frames that `docs/protocol.md` spells out.
    fn examples() -> Vec<(&'static str, Vec<u8>)> {
        vec![
            ("Hello", bytes(&Control::Hello(hello()))),
            ("Welcome", bytes(&Control::Welcome(welcome()))),
            ("Listening", bytes(&Control::Listening(1))),
            ("Listen", bytes(&Control::Listen(listen(3, "ssh", Kind::Tcp)))),
            ("Open, TCP", bytes(&Flow::Open(open()))),
            ("Open, HTTP", bytes(&Flow::Open(http_open()))),
            ("Opened", bytes(&Flow::Opened)),
            ("Refused", bytes(&Flow::Refused(refusal(Code::UpstreamRefused, "db:5432 refused")))),
            ("Open, UDP", bytes(&Flow::Open(udp_open()))),
            ("Datagram", encode_datagram(8, &PACKET).to_vec()),
            ("Packet on its stream", encode_packet(&PACKET).unwrap().to_vec()),
            ("Hello, between nodes", bytes(&Peer::Hello(peer_hello()))),
            ("Routes", bytes(&Peer::Routes(snapshot()))),
            ("Load", bytes(&Peer::Load(load()))),
            ("Open, between nodes", bytes(&Flow::Open(node_open()))),
        ]
    }

    /// The bytes of each block of hexadecimal digits. Two spaces begin a remark.
    fn spelled_out(docs: &str) -> Vec<(&str, String)> {
        docs.split("```hex ")
            .skip(1)
            .map(|rest| {
                let (block, _) = rest.split_once("\n```").expect("a block ends");
                let (name, lines) = block.split_once('\n').expect("a block has lines");
                let hex = lines.lines().filter_map(|line| line.split("  ").next()).collect::<String>();
                (name, hex.replace(' ', ""))
            })
            .collect()
    }

    #[test]
    fn the_bytes_in_the_description_are_those_on_the_wire() {
        let made: Vec<_> = examples().iter().map(|(name, bytes)| (*name, hex(bytes))).collect();
        assert_eq!(spelled_out(DOCS), made);
    }

    #[test]
    fn the_description_has_every_frame_with_its_type() {
        let controls = controls().into_iter().map(|frame| (frame.to_parts().0, name(&frame)));
        let flows = flows().into_iter().map(|frame| (frame.to_parts().0, name(&frame)));
        for (kind, name) in controls.chain(flows) {
            assert!(DOCS.contains(&format!("| `0x{kind:02x}` | `{name}` |")), "{name}");
        }
        let (_, rest) = DOCS.split_once("\n## Links between nodes\n").unwrap();
        let (between_nodes, _) = rest.split_once("\n## ").unwrap();
        for frame in peers() {
            let (kind, name) = (frame.to_parts().0, name(&frame));
            assert!(between_nodes.contains(&format!("| `0x{kind:02x}` | `{name}` |")), "{name}");
        }
    }

    #[test]
    fn the_description_has_the_protocols_and_the_phases() {
        for alpn in [ALPN_LINK, ALPN_PEER] {
            assert!(DOCS.contains(&format!("`{}`", str::from_utf8(alpn).unwrap())));
        }
        for phase in [Phase::Starting, Phase::Ready, Phase::Draining] {
            assert!(DOCS.contains(&format!("\n| {} | `{}` |", phase.number(), phase.name())), "{phase:?}");
        }
    }

    #[test]
    fn the_description_has_every_code_with_its_number() {
        for code in Code::ALL {
            assert!(DOCS.contains(&format!("\n| {} | `{}` |", code.number(), code.name())), "{code}");
        }
        for (close, name) in [
            (Close::Done, "done"),
            (Close::Protocol, "protocol"),
            (Close::Refused, "refused"),
            (Close::Superseded, "superseded"),
            (Close::Timeout, "timeout"),
            (Close::GraceEnded, "grace ended"),
        ] {
            assert!(DOCS.contains(&format!("\n| {} | {name} |", close as u32)), "{name}");
        }
        for (reset, name) in
            [(Reset::Broken, "broken"), (Reset::Refused, "refused"), (Reset::Cancelled, "cancelled")]
        {
            assert!(DOCS.contains(&format!("\n| {} | {name} |", reset as u32)), "{name}");
        }
    }

    /// Message, field and number, to its type.
    type Fields = BTreeMap<(String, String, u32), String>;

    /// The messages that the sources derive. A message is there as often as it is used; a field stands behind its attribute.
    fn derived(source: &str) -> Fields {
        let (mut fields, mut message, mut attribute) = (Fields::new(), String::new(), None);
        for line in source.lines().map(str::trim) {
            if let Some((_, rest)) = line.split_once("struct ") {
                let name = rest.split([' ', '(']).next().unwrap();
                message = name.strip_prefix("Wire").unwrap_or(name).into();
            } else if let Some(inner) = line.strip_prefix("#[prost(") {
                attribute = inner.strip_suffix(")]");
            } else if let Some(inner) = attribute.take() {
                let (name, of) = line.trim_end_matches(',').rsplit_once(": ").unwrap();
                let name = name.rsplit(' ').next().unwrap();
                let (kind, tag) = inner.split_once(", tag = ").unwrap();
                let kind = match kind.split_once(", ") {
                    Some(("message", "repeated")) => {
                        format!("repeated {}", of.trim_start_matches("Vec<").trim_end_matches('>'))
                    }
                    Some((kind, "repeated")) => {
                        format!("repeated {}", kind.trim_end_matches(" = \"vec\""))
                    }
                    Some(_) => panic!("{inner} is not expected"),
                    None => kind.trim_end_matches(" = \"vec\"").into(),
                };
                fields.insert((message.clone(), name.into(), read(tag.trim_matches('"'))), kind);
            }
        }
        fields
    }

    /// The messages of a proto file that writes one field a line.
    fn declared(proto: &str) -> Fields {
        let (mut fields, mut message) = (Fields::new(), String::new());
        for line in proto.lines().map(|line| line.split("//").next().unwrap().trim()) {
            if let Some(rest) = line.strip_prefix("message ") {
                message = rest.split(' ').next().unwrap().into();
            } else if let Some((field, tag)) = line.trim_end_matches(';').split_once(" = ")
                && let Some((kind, name)) = field.rsplit_once(' ')
                && kind != "package"
            {
                fields.insert((message.clone(), name.into(), read(tag)), kind.into());
            }
        }
        fields
    }

    #[test]
    fn the_proto_file_has_the_messages_of_the_sources() {
        let (control, flow) = (derived(include_str!("control.rs")), derived(include_str!("flow.rs")));
        // The frames of both kinds of control stream begin with a message of the name Hello.
        let peer = derived(&include_str!("peer.rs").replace("Wire", "Peer"));
        let ask = derived(include_str!("ask.rs"));
        let all: Fields = control.into_iter().chain(flow).chain(ask).chain(peer).collect();
        assert_eq!(all.len(), 71);
        assert_eq!(declared(PROTO), all);
    }
}
