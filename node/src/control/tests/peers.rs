//! The peer port, and proposals over it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use broky_proto::id::MapVersion;
use broky_proto::peer::{HELLO_BYTES, Hello, Purpose, REPLY_BYTES, Reply};
use broky_proto::peer_v1 as pb;
use broky_ring::command::{Effect, Step};

use super::*;

fn say(address: SocketAddr, bytes: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut reply = [0; REPLY_BYTES];
    stream.read_exact(&mut reply).unwrap();
    Reply::decode(&reply).unwrap()
}

#[test]
fn only_who_belongs_is_let_in() {
    let node = Spec::lone("a").start();
    let cluster = until_formed(std::slice::from_ref(&node));
    assert_eq!(node.control().cluster(), Some(cluster));
    let (address, me) = (node.spec.address, node.me());
    let old = Member { incarnation: Incarnation(me.incarnation.0 - 1), ..me };
    let stranger = Member { node: NodeId(77), incarnation: Incarnation(1) };
    let newcomer = Member { node: NodeId(77), incarnation: Incarnation(1 << 40) };
    let hello = Hello { purpose: Purpose::Control, shard: 0, cluster: Some(cluster), from: None, to: None };
    let data = Hello { purpose: Purpose::Data, from: Some(newcomer), ..hello };
    let detour = Hello { purpose: Purpose::Detour, from: Some(newcomer), to: Some(me), ..hello };
    for (hello, reply) in [
        (hello, Reply::Ok),
        (Hello { cluster: None, ..hello }, Reply::Ok),
        (Hello { cluster: Some(ClusterId([9; 16])), ..hello }, Reply::OtherCluster),
        (Hello { to: Some(me), ..hello }, Reply::Ok),
        (Hello { to: Some(old), ..hello }, Reply::NotMe),
        (Hello { from: Some(old), ..hello }, Reply::Replaced(me.incarnation)),
        (Hello { from: Some(stranger), ..hello }, Reply::Forgotten),
        // The map does not have it yet, and says nothing about it.
        (Hello { from: Some(newcomer), ..hello }, Reply::Ok),
        (data, Reply::Ok),
        (Hello { from: None, ..data }, Reply::OtherCluster),
        (Hello { to: None, ..detour }, Reply::NotMe),
        (Hello { to: Some(old), ..detour }, Reply::NotMe),
        (Hello { to: Some(stranger), ..detour }, Reply::NotMe),
        (Hello { from: None, ..detour }, Reply::OtherCluster),
        (Hello { cluster: None, from: None, ..detour }, Reply::OtherCluster),
    ] {
        assert_eq!(say(address, &hello.encode()), reply, "{hello:?}");
    }
    let bad = node.control().peers().bad.load(Ordering::Relaxed);
    assert_eq!(say(address, &[b'x'; HELLO_BYTES]), Reply::Malformed);
    until("it is counted", || (node.control().peers().bad.load(Ordering::Relaxed) == bad + 1).then_some(()));
}

#[test]
fn data_connections_are_handed_on_with_what_they_said() {
    let mut node = Spec::lone("a").start();
    let cluster = until_formed(std::slice::from_ref(&node));
    let from = Some(node.me());
    let hello = Hello { purpose: Purpose::Data, shard: 3, cluster: Some(cluster), from, to: from };
    let mut stream = TcpStream::connect(node.spec.address).unwrap();
    stream.write_all(&hello.encode()).unwrap();
    stream.write_all(b"PRI * HTTP/2.0").unwrap();
    let (mut taken, said) = until("it is handed on", || node._data.try_recv().ok());
    assert_eq!(said, hello);
    taken.set_nonblocking(false).unwrap();
    let mut next = [0; 14];
    taken.read_exact(&mut next).unwrap();
    assert_eq!(&next, b"PRI * HTTP/2.0");
}

#[test]
fn detour_leads_to_whom_it_names() {
    let (_, instances, _) = three();
    let [near, via, far] = &instances[..] else { panic!() };
    let hello = |purpose, to| Hello { purpose, shard: 0, cluster: near.control().cluster(), from: Some(near.me()), to };
    let mut stream = TcpStream::connect(via.spec.address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut say = |hello: Hello| {
        stream.write_all(&hello.encode()).unwrap();
        let mut reply = [0; REPLY_BYTES];
        stream.read_exact(&mut reply).unwrap();
        Reply::decode(&reply).unwrap()
    };
    assert_eq!(say(hello(Purpose::Detour, Some(far.me()))), Reply::Ok);
    // Only `far` takes this for its own.
    assert_eq!(say(hello(Purpose::Control, Some(far.me()))), Reply::Ok);
    assert_eq!(via.control().peers().carried.load(Ordering::Relaxed), 1);
}

#[test]
fn detour_to_nowhere_ends() {
    let (_, mut instances, _) = three();
    let (from, gone) = (instances[0].me(), instances[2].me());
    instances.truncate(2);
    let cluster = instances[1].control().cluster();
    let hello = Hello { purpose: Purpose::Detour, shard: 0, cluster, from: Some(from), to: Some(gone) };
    let mut stream = TcpStream::connect(instances[1].spec.address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(&hello.encode()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(Reply::decode(&answer), Ok(Reply::Ok));
}

#[test]
fn process_to_which_there_is_no_way_is_silent() {
    let (specs, instances, _) = three();
    let mut nowhere = Spec::joining("nowhere", &specs[0]);
    nowhere.config.addresses.peer = "nowhere".to_owned();
    let nowhere = nowhere.start();
    let member = nowhere.me();
    until("the others know it", || instances[1].map().is_current(member).then_some(()));
    let shared = &instances[0].control().0;
    let others = vec![(instances[1].me(), specs[1].address.to_string())];
    let opinions = super::super::detector::second_opinions(shared, member, "nowhere", others);
    let opinions = instances[0].runtime.as_ref().unwrap().block_on(opinions);
    assert_eq!(opinions, [Some(pb::Reach::Silent)]);
}

#[test]
fn strangers_who_say_nothing_do_not_keep_peers_out_for_ever() {
    let node = Spec::lone("a").start();
    until_formed(std::slice::from_ref(&node));
    let silent: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(node.spec.address).unwrap()).collect();
    until("the surplus is turned away", || (node.control().peers().bad.load(Ordering::Relaxed) >= 36).then_some(()));
    let second = Spec::joining("b", &node.spec).start();
    until_formed(&[node, second]);
    drop(silent);
}

#[test]
fn proposal_reaches_the_leader_from_everywhere_and_the_map_comes_back() {
    let (_, instances, _) = three();
    let node = instances[0].me().node;
    for (at, instance) in instances.iter().enumerate() {
        let command = if at % 2 == 0 { Command::Drain { node, force: true } } else { Command::Undrain { node } };
        assert_eq!(instance.propose(command), Ok(Outcome::Node(Ok(Effect::Changed))));
    }
    until("everybody knows", || {
        instances.iter().all(|other| other.map().node(node).is_some_and(|node| node.is_draining)).then_some(())
    });
}

#[test]
fn map_is_pulled_from_a_peer_and_never_goes_back() {
    let (specs, instances, _) = three();
    let late = Spec::joining("late", &specs[0]).start();
    until("it is registered", || late.control().me());
    let address = specs[0].address.to_string();
    let pulled = late.runtime.as_ref().unwrap().block_on(late.control().pull_map(&address));
    assert!(pulled.is_ok(), "{pulled:?}");
    let version = late.map().version();
    assert_eq!(late.control().offer_diff(instances[0].map().diff(MapVersion(0))).err(), None);
    assert!(late.map().version() >= version);
    let foreign = Spec::lone("x").start();
    until_formed(std::slice::from_ref(&foreign));
    assert!(matches!(
        late.control().offer_diff(foreign.map().diff(MapVersion(0))),
        Err(DiffError::OtherCluster { .. })
    ));
}

#[test]
fn deposed_leader_gets_the_map_from_whoever_leads_in_its_place_or_else_from_others() {
    let (_, mut instances, first) = three();
    // Each knows the old map, is in no group, and finds nobody to bring it a newer one.
    let old = until("everything is placed", || {
        let map = instances[first].map();
        let is_placed = map.vbuckets().all(|(_, vb)| vb.leader.is_some() && vb.isr.len() > 1);
        is_placed.then_some(map)
    });
    let deposed = || {
        let mut spec = Spec::lone("deposed");
        spec.config.join = vec![free_address().to_string()];
        let deposed = spec.start();
        deposed.control().0.publish(&old);
        deposed
    };
    let (vbucket, vb) = old.vbuckets().next().unwrap();
    let to = vb.isr.iter().copied().find(|member| Some(*member) != vb.leader).unwrap();
    let step = Step::TransferLeadership { vbucket, to: to.node };
    assert_eq!(
        instances[0].propose(Command::Move { steps: vec![step] }),
        Ok(Outcome::Move(Ok(vec![Ok(Effect::Changed)])))
    );
    let epoch_of = |map: &ClusterMap| map.vbucket(vbucket).unwrap().epoch;
    let newer = |instances: &[Instance]| {
        let epochs: Vec<Epoch> = instances.iter().map(|instance| epoch_of(&instance.map())).collect();
        (epochs.iter().min() > Some(&vb.epoch)).then(|| epochs.into_iter().min().unwrap())
    };
    let epoch = until("everybody knows the new leader", || newer(&instances));
    let hear = |deposed: &Instance| {
        let hear = deposed.control().hear_of_leader(to, epoch);
        deposed.runtime.as_ref().unwrap().block_on(hear);
        epoch_of(&deposed.map())
    };
    assert!(hear(&deposed()) >= epoch, "from the leader");
    instances.retain(|instance| instance.me() != to);
    assert!(hear(&deposed()) >= epoch, "from another");
}

#[test]
fn node_of_another_cluster_is_not_taken_for_a_member() {
    let (ours, theirs) = (Spec::lone("a").start(), Spec::lone("b").start());
    until_formed(std::slice::from_ref(&ours));
    until_formed(std::slice::from_ref(&theirs));
    let address = ours.spec.address.to_string();
    let pulled = theirs.runtime.as_ref().unwrap().block_on(theirs.control().pull_map(&address));
    assert!(pulled.unwrap_err().to_string().contains("OtherCluster"));
}
