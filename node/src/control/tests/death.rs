//! Who dies, is paused, is replaced or removed.

use broky_ring::command::Effect;

use super::super::links::CallError;

use super::*;

#[test]
fn killed_follower_is_fenced_at_once() {
    until_in_time("it is fenced before its silence tells", timing::SILENCE, || {
        let (_, mut instances, leader) = three();
        let victim = (leader + 1) % 3;
        let node = instances[victim].me().node;
        let killed = Instant::now();
        drop(instances.remove(victim));
        until("the killed follower is fenced", || {
            instances.iter().all(|other| other.liveness(node) == Some(Liveness::Fenced)).then_some(())
        });
        killed.elapsed()
    });
}

#[test]
fn killed_raft_leader_is_replaced_and_fenced_before_raft_itself_would_notice() {
    // Raft's lease, and after that its shortest timeout. On a quiet machine it takes a tenth of that.
    let raft = timing::RAFT_ELECTION_MAX + timing::RAFT_ELECTION_MIN;
    for count in [3, 5] {
        until_in_time("it is replaced and fenced", raft, || {
            let mut instances = start_all(&Spec::many(count));
            until_formed(&instances);
            let first = until_settled(&instances);
            let node = instances[first].me().node;
            let killed = Instant::now();
            drop(instances.remove(first));
            leader(&instances);
            until("the killed leader is fenced", || {
                instances.iter().all(|other| other.liveness(node) == Some(Liveness::Fenced)).then_some(())
            });
            killed.elapsed()
        });
    }
}

#[test]
fn process_that_was_started_in_the_raft_leaders_place_is_not_taken_for_it() {
    let (specs, mut instances, first) = three();
    let follower = instances.remove((first + 1) % 3);
    let shared = &follower.control().0;
    let group = shared.group().unwrap();
    let (_, leader) = group.leader().unwrap();
    drop(instances);
    // It knows nobody, and answers at once.
    let mut spec = specs[first].clone();
    spec.config.join = vec![free_address().to_string()];
    let _stranger = spec.start();
    let beat = super::super::heartbeat::beat(shared, &group, follower.me(), &leader);
    let answer = follower.runtime.as_ref().unwrap().block_on(beat);
    assert!(matches!(&answer, Err(CallError::Dial(error)) if error.is_gone()), "{answer:?}");
}

#[test]
fn paused_follower_is_fenced_and_returns_as_what_it_was() {
    let (_, instances, leader) = three();
    let paused = &instances[(leader + 1) % 3];
    let me = paused.me();
    paused.pause(Duration::from_secs(3));
    let other = &instances[leader];
    until("the paused follower is fenced", || (other.liveness(me.node) == Some(Liveness::Fenced)).then_some(()));
    until("it is back", || other.map().is_alive(me).then_some(()));
    assert_eq!(paused.ended(), None);
}

#[test]
fn paused_raft_leader_is_replaced_and_returns_as_a_follower() {
    until_in_time("its silence is not counted anew", timing::SILENCE, || {
        let (_, mut instances, first) = three();
        let paused = instances.remove(first);
        let me = paused.me();
        paused.pause(Duration::from_secs(5));
        let started = Instant::now();
        until("there is another leader", || {
            // As gossip and the data plane do meanwhile.
            instances.iter().for_each(|other| other.control().report_unreachable(me, How::Silent));
            instances.iter().any(Instance::is_raft_leader).then_some(())
        });
        let elected = started.elapsed();
        until("the paused leader is fenced", || {
            instances.iter().all(|other| other.liveness(me.node) == Some(Liveness::Fenced)).then_some(())
        });
        let fenced = started.elapsed();
        println!("elected after {elected:?}, fenced after {fenced:?}");
        until("it is back", || paused.map().is_alive(me).then_some(()));
        assert_eq!(paused.ended(), None);
        // Too late altogether is too late behind the election as well.
        if fenced < Duration::from_secs(3) { fenced - elected } else { fenced }
    });
}

#[test]
fn what_was_known_of_a_lost_leader_is_forgotten_once_a_leader_answers() {
    let (_, mut instances, first) = three();
    let old = instances.remove(first);
    let long_ago = tokio::time::Instant::now() - timing::SILENCE * 2;
    for (at, other) in [(0, 1), (1, 0)] {
        instances[at].control().0.note_lost_leader(instances[other].me(), long_ago);
    }
    let knows_nothing = |instance: &Instance| lock(&instance.control().0.lost_leader).is_none();
    until("the leader has answered", || instances.iter().all(knows_nothing).then_some(()));
    let node = old.me().node;
    // Nothing but being fenced would change their entries.
    let entries = || {
        let map = instances[0].map();
        instances.iter().map(|other| map.node(other.me().node).cloned()).collect::<Vec<_>>()
    };
    let before = entries();
    drop(old);
    until("the killed leader is fenced", || {
        instances.iter().all(|other| other.liveness(node) == Some(Liveness::Fenced)).then_some(())
    });
    assert_eq!(entries(), before);
}

#[test]
fn member_that_somebody_else_cannot_reach_is_not_fenced_while_the_leader_can() {
    let (_, instances, leader) = three();
    let (reporter, about) = (&instances[(leader + 1) % 3], &instances[(leader + 2) % 3]);
    let me = about.me();
    reporter.control().report_unreachable(me, How::Refused);
    // What comes after the report has been dealt with after it.
    let drained = instances[leader].propose(Command::Undrain { node: me.node }).unwrap();
    assert_eq!(drained, Outcome::Node(Ok(Effect::Unchanged)));
    assert_eq!(instances[leader].liveness(me.node), Some(Liveness::Alive));
}

#[test]
fn node_dead_for_long_is_evicted() {
    let mut specs = Spec::many(3);
    for spec in &mut specs {
        spec.config.dead_after = Duration::from_millis(200);
    }
    let mut instances = start_all(&specs);
    until_formed(&instances);
    let first = until_settled(&instances);
    let victim = (first + 1) % 3;
    let node = instances[victim].me().node;
    drop(instances.remove(victim));
    until("it is evicted", || (instances[0].liveness(node) == Some(Liveness::Evicted)).then_some(()));
}

#[test]
fn restarted_node_is_the_same_node_in_another_lifetime() {
    let (specs, mut instances, leader) = three();
    let victim = (leader + 1) % 3;
    let before = instances[victim].me();
    drop(instances.remove(victim));
    instances.push(specs[victim].start());
    until_formed(&instances);
    let after = instances[2].me();
    assert_eq!(after.node, before.node);
    assert!(after.incarnation > before.incarnation);
    until_settled(&instances);
}

#[test]
fn replaced_process_ends() {
    let (_, instances, leader) = three();
    let old = &instances[(leader + 1) % 3];
    let mut usurper = Spec::joining(old.name(), &instances[leader].spec);
    usurper.config.expect = None;
    let new = usurper.start();
    let end = until("the old process ends", || old.ended());
    assert_eq!(end, End::Replaced { name: old.name().to_owned(), by: new.me().incarnation });
    assert_eq!(new.me().node, old.me().node);
}

#[test]
fn forgotten_node_ends() {
    let (specs, mut instances, _) = three();
    instances.push(Spec::joining("late", &specs[0]).start());
    until_formed(&instances);
    let node = instances[3].me().node;
    // It holds nothing yet, so it is empty as soon as it is being drained.
    for command in [Command::Drain { node, force: true }, Command::Forget { node }] {
        until("it is decided", || {
            matches!(instances[1].propose(command.clone()), Ok(Outcome::Node(Ok(_)))).then_some(())
        });
    }
    let end = until("the forgotten node ends", || instances[3].ended());
    assert_eq!(end, End::Forgotten { name: "late".to_owned() });
    until("it is out of the raft group", || instances[0].control().status().raft.learners.is_empty().then_some(()));
}
