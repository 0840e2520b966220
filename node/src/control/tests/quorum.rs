//! A majority dies: what comes back, and as what.

use broky_proto::id::Lineage;

use super::*;
use crate::control::store::Scratch;

#[test]
fn lost_majority_is_re_founded_by_the_survivor_when_all_are_accounted_for() {
    let (specs, mut instances, leader) = three();
    let cluster = until_formed(&instances);
    let survivor = instances.remove((leader + 1) % 3);
    until("its leader has answered it", || knows(&survivor).then_some(()));
    let (me, version, lineages) = (survivor.me(), survivor.map().version(), lineages(&survivor));
    let dead: Vec<Spec> = instances.iter().map(|instance| instance.spec.clone()).collect();
    drop(instances);
    // Restarted as they were first started: they could found a cluster of their own with anybody else.
    let mut instances: Vec<Instance> = dead.iter().map(Spec::start).collect();
    instances.push(survivor);
    assert_eq!(until_formed(&instances), cluster);
    until_settled(&instances);
    let survivor = &instances[2];
    assert_eq!(survivor.me(), me, "the survivor is what it was");
    assert_eq!(self::lineages(survivor), lineages, "it knew all that was decided");
    assert!(survivor.map().version().0 > version.0 + (1 << 20), "indices go on above all that were used");
    for other in &instances[..2] {
        assert!(other.me().incarnation > me.incarnation);
    }
    // And it works as before, a second time as well.
    let killed = instances.remove(0);
    let node = killed.me().node;
    drop(killed);
    until("fenced", || (instances[0].liveness(node) == Some(Liveness::Fenced)).then_some(()));
    assert_eq!(specs.len(), 3);
}

/// Whether its leader has answered it.
fn knows(instance: &Instance) -> bool {
    instance.control().0.group().is_some_and(|group| group.last_contact().is_some())
}

fn lineages(instance: &Instance) -> Vec<Lineage> {
    instance.map().vbuckets().map(|(_, vbucket)| vbucket.lineage).collect()
}

#[test]
fn survivor_whose_workers_are_the_first_to_notice_knew_all() {
    let (_, mut instances, leader) = three();
    let cluster = until_formed(&instances);
    until_settled(&instances);
    let survivor = instances.remove((leader + 1) % 3);
    until("its leader has answered it", || knows(&survivor).then_some(()));
    let before = lineages(&survivor);
    let dead: Vec<Spec> = instances.iter().map(|instance| instance.spec.clone()).collect();
    let members: Vec<_> = instances.iter().map(Instance::me).collect();
    let (is_over, order) = (std::sync::atomic::AtomicBool::new(false), std::sync::atomic::Ordering::Relaxed);
    let mut instances = std::thread::scope(|scope| {
        scope.spawn(|| {
            // As workers do whose links to the dead cannot be made again.
            while !is_over.load(order) {
                members.iter().for_each(|dead| survivor.control().report_unreachable(*dead, How::Refused));
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        drop(instances);
        let restarted: Vec<Instance> = dead.iter().map(Spec::start).collect();
        is_over.store(true, order);
        restarted
    });
    instances.push(survivor);
    assert_eq!(until_formed(&instances), cluster);
    assert_eq!(lineages(&instances[2]), before, "it knew all that was decided");
}

#[test]
fn survivor_that_slept_while_the_others_went_on_begins_new_lineages() {
    for led in [false, true] {
        let (_, mut instances, leader) = three();
        let cluster = until_formed(&instances);
        until_settled(&instances);
        let survivor = instances.remove(if led { leader } else { (leader + 1) % 3 });
        let (node, before) = (survivor.me().node, lineages(&survivor));
        survivor.pause(Duration::from_secs(6));
        until("it is fenced", || (instances[0].liveness(node) == Some(Liveness::Fenced)).then_some(()));
        let dead: Vec<Spec> = instances.iter().map(|instance| instance.spec.clone()).collect();
        drop(instances);
        let mut instances: Vec<Instance> = dead.iter().map(Spec::start).collect();
        instances.push(survivor);
        assert_eq!(until_formed(&instances), cluster);
        let after = lineages(&instances[2]);
        assert!(before.iter().zip(&after).all(|(before, after)| before < after), "{before:?} {after:?}");
    }
}

#[test]
fn two_survivors_of_five_re_found_once() {
    let specs = Spec::many(5);
    let mut instances = start_all(&specs);
    let cluster = until_formed(&instances);
    until_settled(&instances);
    let (before, mut is_second) = (lineages(&instances[0]), false);
    // With and without the leader among the survivors, which then leads nobody.
    for dead in [1..4, 0..3] {
        let has_heard = |instance: &Instance| instance.is_raft_leader() || knows(instance);
        until("everybody has been answered", || instances.iter().all(has_heard).then_some(()));
        let leader = leader(&instances);
        instances.rotate_left(leader);
        let dead: Vec<Spec> = instances.drain(dead).map(|instance| instance.spec.clone()).collect();
        instances.extend(dead.iter().map(Spec::start));
        assert_eq!(until_formed(&instances), cluster);
        until_settled(&instances);
        // Where a survivor held a copy nothing has begun anew. The second time hardly anybody does: nothing is copied
        // here.
        let now = lineages(&instances[0]);
        let is_kept = now.iter().zip(&before).any(|(now, before)| now == before);
        assert!(is_kept || is_second, "{before:?} {now:?}");
        is_second = true;
    }
}

#[test]
fn learner_that_slept_through_a_re_founding_follows_the_cluster() {
    let (specs, mut instances, _) = three();
    let late = Spec::joining("late", &specs[0]).start();
    instances.push(late);
    until_formed(&instances);
    let late = instances.pop().unwrap();
    until("it follows", || (late.control().status().raft.learners == ["late"]).then_some(()));
    let me = late.me();
    let leader = leader(&instances);
    instances.rotate_left(leader);
    late.pause(Duration::from_secs(6));
    drop(instances.drain(..2));
    let survivor = instances[0].name().to_owned();
    instances.extend(specs.iter().filter(|spec| spec.config.name != survivor).map(Spec::start));
    until_formed(&instances);
    instances.push(late);
    until_formed(&instances);
    assert_eq!(instances[3].me(), me);
}

#[test]
fn survivor_waits_for_everybody_and_keeps_its_map() {
    let (_, mut instances, leader) = three();
    let cluster = until_formed(&instances);
    let survivor = instances.remove((leader + 1) % 3);
    let dead: Vec<Spec> = instances.iter().map(|instance| instance.spec.clone()).collect();
    drop(instances);
    let first = dead[0].start();
    until("the majority is missed", || {
        first.control().not_ready().filter(|reason| reason.contains("no leader")).and_then(|_| {
            let gone = survivor.control().0.group()?.living_leader().is_none();
            gone.then_some(())
        })
    });
    assert_eq!((first.control().me(), survivor.map().cluster()), (None, cluster));
    let instances = [survivor, first, dead[1].start()];
    assert_eq!(until_formed(&instances), cluster);
}

#[test]
fn second_of_two_restarts_and_the_cluster_lives_on() {
    let first = Spec::lone("a");
    let second = Spec::joining("b", &first);
    let mut instances = vec![first.start(), second.start()];
    let cluster = until_formed(&instances);
    until_settled(&instances);
    drop(instances.pop());
    instances.push(second.start());
    assert_eq!(until_formed(&instances), cluster);
}

#[test]
fn all_killed_without_disks_found_a_new_cluster() {
    let (specs, instances, _) = three();
    let before = until_formed(&instances);
    drop(instances);
    assert_ne!(until_formed(&start_all(&specs)), before);
}

#[test]
fn all_killed_with_disks_are_the_same_cluster() {
    let scratch = Scratch::new();
    let specs: Vec<Spec> = Spec::many(3).into_iter().map(|spec| spec.with_data(&scratch.0)).collect();
    let instances = start_all(&specs);
    let before = until_formed(&instances);
    until_settled(&instances);
    let members: Vec<Member> = instances.iter().map(Instance::me).collect();
    drop(instances);
    let instances = start_all(&specs);
    assert_eq!(until_formed(&instances), before);
    for (after, before) in instances.iter().map(Instance::me).zip(members) {
        assert_eq!(after.node, before.node);
        assert!(after.incarnation > before.incarnation);
    }
    until_settled(&instances);
    for spec in &specs {
        let files = store::files(spec.config.data_dir.as_ref().unwrap()).unwrap();
        assert_eq!(files.len(), 1, "{files:?}");
    }
}

#[test]
fn lone_node_with_a_disk_comes_back() {
    let scratch = Scratch::new();
    let spec = Spec::lone("a").with_data(&scratch.0);
    let before = until_formed(&[spec.start()]);
    assert_eq!(until_formed(&[spec.start()]), before);
}

#[test]
fn directory_in_use_is_refused() {
    let scratch = Scratch::new();
    let spec = Spec::lone("a").with_data(&scratch.0);
    let _held = spec.start();
    let mut second = spec.clone();
    second.address = free_address();
    let error = second.try_start().err().unwrap().to_string();
    assert!(error.contains("in use"), "{error}");
}

#[test]
fn damaged_or_foreign_database_is_told_by_name() {
    let scratch = Scratch::new();
    let spec = Spec::lone("a").with_data(&scratch.0);
    until_formed(&[spec.start()]);
    let directory = spec.config.data_dir.clone().unwrap();
    let file: PathBuf = store::files(&directory).unwrap().remove(0);
    let mut renamed = spec.clone();
    renamed.config.name = "b".to_owned();
    let error = renamed.try_start().err().unwrap().to_string();
    assert!(error.contains(r#"belongs to node "a""#), "{error}");
    let intact = std::fs::read(&file).unwrap();
    let mut damaged = intact.clone();
    // Every value in it has the node's name near by; all of them are damaged.
    damaged.iter_mut().skip(4096).for_each(|byte| *byte ^= 0x55);
    for content in [damaged, b"something else".to_vec()] {
        std::fs::write(&file, &content).unwrap();
        let error = spec.try_start().err().unwrap().to_string();
        assert!(error.contains(file.to_str().unwrap()), "{error}");
    }
    std::fs::write(&file, intact).unwrap();
    until_formed(&[spec.start()]);
}
