//! However nodes are started, there is one cluster.

use super::*;

#[test]
fn lone_node_is_a_cluster_at_once() {
    until_in_time("it is a cluster at once", Duration::from_millis(500), || {
        let started = Instant::now();
        let node = Spec::lone("a").start();
        until_formed(std::slice::from_ref(&node));
        started.elapsed()
    });
    let node = Spec::lone("a").start();
    until("everything is led", || node.map().vbuckets().all(|(_, vb)| vb.leader == node.control().me()).then_some(()));
    until("ready", || node.control().not_ready().is_none().then_some(()));
}

#[test]
fn lone_nodes_found_clusters_of_their_own() {
    let (a, b) = (Spec::lone("a").start(), Spec::lone("a").start());
    assert_ne!(until_formed(&[a]), until_formed(&[b]));
}

#[test]
fn three_started_together_are_one_cluster_of_three_voters() {
    let (_, instances, _) = three();
    assert_eq!(instances[0].map().nodes().count(), 3);
}

#[test]
fn five_started_in_reverse_are_one_cluster_of_five_voters() {
    let specs = Spec::many(5);
    let mut instances: Vec<Instance> = specs.iter().rev().map(Spec::start).collect();
    until_formed(&instances);
    until_settled(&instances);
    instances.reverse();
    assert_eq!(instances[0].map().nodes().count(), 5);
}

#[test]
fn join_lists_may_differ() {
    let mut specs = Spec::many(3);
    let next: Vec<String> = specs.iter().cycle().skip(1).take(3).map(|spec| spec.address.to_string()).collect();
    for (spec, next) in specs.iter_mut().zip(next) {
        spec.config.join = vec![next];
    }
    until_formed(&start_all(&specs));
    // Two know only the third, and it knows nobody.
    let mut specs = Spec::many(3);
    let hub = specs[2].address.to_string();
    for spec in &mut specs {
        spec.config.join = vec![hub.clone()];
    }
    until_formed(&start_all(&specs));
}

#[test]
fn nobody_founds_before_everybody_has_come() {
    let specs = Spec::many(3);
    let early: Vec<Instance> = specs[..2].iter().map(Spec::start).collect();
    for node in &early {
        until("two have met", || node.control().not_ready().filter(|reason| reason.starts_with("2 of 3")));
        assert_eq!(node.control().me(), None);
    }
    let mut all = early;
    all.push(specs[2].start());
    until_formed(&all);
}

#[test]
fn founders_that_crash_while_forming_do_no_harm() {
    let specs = Spec::many(3);
    for round in 0..6 {
        let instances = start_all(&specs);
        // At another moment each time, from before the promises to after the founding.
        std::thread::sleep(Duration::from_millis(40 * round));
        let mut instances = instances;
        drop(instances.remove(usize::try_from(round).unwrap() % 3));
        instances.push(specs[usize::try_from(round).unwrap() % 3].start());
        until_formed(&instances);
    }
}

#[test]
fn later_nodes_join_and_the_fourth_does_not_vote() {
    let (specs, mut instances, _) = three();
    let before = until_formed(&instances);
    let late = Spec::joining("late", &specs[1]).start();
    instances.push(late);
    assert_eq!(until_formed(&instances), before);
    let status = until("it follows", || {
        let status = instances[3].control().status();
        (status.raft.learners == ["late"]).then_some(status)
    });
    assert_eq!(status.raft.voters.len(), 3);
}

#[test]
fn lone_node_grows_into_a_cluster_of_three_voters() {
    let first = Spec::lone("a");
    let mut instances = vec![first.start()];
    let before = until_formed(&instances);
    for name in ["b", "c"] {
        instances.push(Spec::joining(name, &first).start());
        assert_eq!(until_formed(&instances), before);
    }
    until_settled(&instances);
}

#[test]
fn node_that_finds_a_cluster_joins_it_although_it_could_found_one() {
    let first = Spec::lone("a");
    let lone = first.start();
    let before = until_formed(std::slice::from_ref(&lone));
    let mut specs = Spec::many(2);
    for spec in &mut specs {
        spec.config.join.push(first.address.to_string());
    }
    let mut instances = start_all(&specs);
    instances.push(lone);
    assert_eq!(until_formed(&instances), before);
}

#[test]
fn six_found_a_cluster_and_five_go_on_voting() {
    let instances = start_all(&Spec::many(6));
    until_formed(&instances);
    until("one is a learner", || {
        let raft = instances[0].control().status().raft;
        (raft.voters.len() == 5 && raft.learners.len() == 1).then_some(())
    });
}
