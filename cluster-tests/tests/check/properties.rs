//! Of generated histories: clean ones pass, ones changed in one place do not, and the verdict depends on the records
//! only.

use std::collections::BTreeMap;

use broky_cluster_tests::check::generate::{Generate, Process, generate, processes};
use broky_cluster_tests::check::{CheckOptions, Checker, Report, Verdict};
use broky_cluster_tests::history::{Event, GapReason, PushFail, Record};
use broky_proto::id::{Epoch, VBucketCount};
use proptest::prelude::*;
use proptest::sample::Index;

/// Records by the process that wrote them.
#[derive(Clone, Debug)]
struct History {
    /// Process and record, in the order of time.
    records: Vec<(Process, String)>,
    processes: usize,
}

impl History {
    fn of(options: &Generate) -> Self {
        let mut records = Vec::new();
        let done = generate(options, |process, record| {
            records.push((process, serde_json::to_string(record).unwrap()));
            Ok(())
        });
        done.unwrap();
        Self { records, processes: processes(options) }
    }

    fn judge(&self, options: CheckOptions, order: &[Process]) -> Report {
        let mut checker = Checker::new(options);
        for process in order {
            let source = checker.add_source(format!("process-{process}")).unwrap();
            for (_, line) in self.records.iter().filter(|(of, _)| of == process) {
                checker.add(source, &parse(line)).unwrap();
            }
        }
        checker.finish().unwrap()
    }

    fn report(&self) -> Report {
        self.judge(CheckOptions::default(), &(0..self.processes).collect::<Vec<_>>())
    }

    /// The indices of records that are as asked for.
    fn find(&self, is_it: impl Fn(&Event<'_>) -> bool) -> Vec<usize> {
        let is_it = |at: &usize| is_it(&parse(&self.records[*at].1).event);
        (0..self.records.len()).filter(is_it).collect()
    }

    fn change(&mut self, at: usize, change: impl FnOnce(&mut Event<'_>)) {
        let mut record = parse(&self.records[at].1);
        change(&mut record.event);
        let line = serde_json::to_string(&record).unwrap();
        self.records[at].1 = line;
    }
}

fn parse(line: &str) -> Record<'_> {
    serde_json::from_str(line).unwrap()
}

/// What was found, in words, without the places of records, which depend on the order of files.
fn findings(report: &Report) -> Vec<String> {
    let found = report.judgements.iter().flat_map(|judgement| &judgement.found);
    let mut words = vec![format!("{:?}", report.verdict)];
    for (kind, found) in found {
        words.push(format!("{kind} {}", found.count));
        words.extend(
            found.kept.iter().map(|finding| format!("{} {} {:?}", finding.at, finding.what, finding.isr_history)),
        );
    }
    words.extend(report.judgements.iter().flat_map(|judgement| judgement.notes.clone()));
    words
}

fn options() -> impl Strategy<Value = Generate> {
    let sizes = (50..400_u64, 0..3_u32, 1..4_u32, 1..3_u32, 0..3_u32, 0..2_u32);
    let faults = (0..3_u32, 0..3_u32, any::<u64>());
    (sizes, faults).prop_map(|((pushes, bits, producers, readers, filtered, slow), (kills, total_losses, seed))| {
        let vbuckets = VBucketCount::new(1 << bits).unwrap();
        Generate { pushes, vbuckets, producers, readers, filtered, slow, kills, total_losses, seed }
    })
}

/// Without evictions and total losses, which excuse much.
fn strict_options() -> impl Strategy<Value = Generate> {
    options().prop_map(|options| Generate { slow: 0, total_losses: 0, ..options })
}

/// A way to break a clean history. `None` where there is nothing to break in this way.
type Change = fn(&mut History, &Index) -> Option<()>;

fn pick(candidates: &[usize], index: &Index) -> Option<usize> {
    (!candidates.is_empty()).then(|| *index.get(candidates))
}

fn acked(event: &Event<'_>) -> bool {
    matches!(event, Event::PushOk(_))
}

fn delivered(event: &Event<'_>) -> bool {
    matches!(event, Event::Deliver(_))
}

fn delivered_to_final(event: &Event<'_>) -> bool {
    matches!(event, Event::Deliver(deliver) if deliver.reader.starts_with("final"))
}

/// A message that nobody gets, although it is acknowledged.
fn lose(history: &mut History, index: &Index) -> Option<()> {
    let at = pick(&history.find(acked), index)?;
    let Event::PushOk(ok) = parse(&history.records[at].1).event else { return None };
    let message = (Some(ok.producer), Some(ok.sequence));
    let is_it = |event: &Event<'_>| matches!(event, Event::Deliver(it) if (it.producer, it.sequence) == message);
    let gone = history.find(is_it);
    let mut number = 0..;
    history.records.retain(|_| !gone.contains(&number.next().unwrap()));
    Some(())
}

/// A message that the final reader does not get.
fn skip(history: &mut History, index: &Index) -> Option<()> {
    let at = pick(&history.find(delivered_to_final), index)?;
    history.records.remove(at);
    Some(())
}

fn repeat(history: &mut History, index: &Index) -> Option<()> {
    let at = pick(&history.find(delivered), index)?;
    history.records.insert(at + 1, history.records[at].clone());
    Some(())
}

/// Two acknowledgements that name each other's offsets.
fn swap_acks(history: &mut History, index: &Index) -> Option<()> {
    let place = |history: &History, at: usize| match parse(&history.records[at].1).event {
        Event::PushOk(ok) => ok.position.map(|it| (it.vbucket, it.lineage, it.epoch, it.offset)),
        _ => None,
    };
    let all = history.find(acked);
    let one = pick(&all, index)?;
    let own = place(history, one)?;
    let other = all.into_iter().find(|at| *at != one && place(history, *at).is_some_and(|it| it.0 == own.0))?;
    let theirs = place(history, other)?;
    let mut set = |at: usize, (_, lineage, epoch, offset)| {
        history.change(at, |event| {
            if let Event::PushOk(ok) = event {
                let position = ok.position.as_mut().unwrap();
                (position.lineage, position.epoch, position.offset) = (lineage, epoch, offset);
            }
        });
    };
    set(one, theirs);
    set(other, own);
    Some(())
}

fn corrupt(history: &mut History, index: &Index) -> Option<()> {
    let at = pick(&history.find(delivered), index)?;
    history.change(at, |event| {
        if let Event::Deliver(deliver) = event {
            deliver.crc32 ^= 1;
        }
    });
    Some(())
}

/// A delivery of another message of the same history.
fn replace(history: &mut History, index: &Index) -> Option<()> {
    let all = history.find(delivered_to_final);
    let at = pick(&all, index)?;
    let other = all.into_iter().find(|other| *other != at)?;
    let other = history.records[other].1.clone();
    let Event::Deliver(other) = parse(&other).event else { return None };
    let (producer, sequence, crc32, hash64) = (other.producer, other.sequence, other.crc32, other.hash64);
    history.change(at, |event| {
        if let Event::Deliver(deliver) = event {
            (deliver.producer, deliver.sequence, deliver.crc32, deliver.hash64) = (producer, sequence, crc32, hash64);
        }
    });
    Some(())
}

/// A refusal of what is stored.
fn deny(history: &mut History, index: &Index) -> Option<()> {
    let at = pick(&history.find(acked), index)?;
    history.change(at, |event| {
        if let Event::PushOk(ok) = event {
            let (producer, sequence) = (ok.producer, ok.sequence);
            *event = Event::PushFail(PushFail { producer, sequence, code: "NOT_LEADER".into() });
        }
    });
    Some(())
}

/// An acknowledgement in an epoch that was over.
fn fence(history: &mut History, index: &Index) -> Option<()> {
    let at = pick(&history.find(acked), index)?;
    history.change(at, |event| {
        if let Event::PushOk(ok) = event {
            ok.position.as_mut().unwrap().epoch = Epoch(0);
        }
    });
    Some(())
}

/// A push that is not recorded, with its outcome.
fn forget(history: &mut History, index: &Index) -> Option<()> {
    let at = pick(&history.find(acked), index)?;
    let Event::PushOk(ok) = parse(&history.records[at].1).event else { return None };
    let (producer, sequence) = (ok.producer, ok.sequence);
    let is_it = |event: &Event<'_>| match event {
        Event::PushInvoke(it) => (it.producer, it.sequence) == (producer, sequence),
        Event::PushOk(it) => (it.producer, it.sequence) == (producer, sequence),
        _ => false,
    };
    let gone = history.find(is_it);
    let mut number = 0..;
    history.records.retain(|_| !gone.contains(&number.next().unwrap()));
    Some(())
}

/// A gap that is not told, before something else in its vbucket.
fn hush(history: &mut History, index: &Index) -> Option<()> {
    let mut last = BTreeMap::new();
    let mut gaps = Vec::new();
    for (at, (_, line)) in history.records.iter().enumerate() {
        match parse(line).event {
            Event::Gap(gap) if gap.from < gap.to => {
                gaps.push((at, gap.reader.to_string(), gap.vbucket, gap.reason));
                last.insert((gap.reader.to_string(), gap.vbucket), at);
            }
            Event::Deliver(it) => drop(last.insert((it.reader.to_string(), it.vbucket), at)),
            _ => {}
        }
    }
    let is_followed = |(at, reader, vbucket, _): &&(usize, String, _, _)| last[&(reader.clone(), *vbucket)] > *at;
    // Of a lost lineage nobody may have seen anything, but that it was lost has to be told.
    let candidates: Vec<usize> = gaps.iter().filter(is_followed).map(|gap| gap.0).collect();
    assert!(gaps.iter().all(|gap| matches!(gap.3, GapReason::Lost | GapReason::Slow)));
    let at = pick(&candidates, index)?;
    history.records.remove(at);
    Some(())
}

/// A death that the supervisor did not see.
fn revive(history: &mut History, index: &Index) -> Option<()> {
    let all_died = history.find(|event| matches!(event, Event::Fault(fault) if fault.kind == "kill-all"));
    // The exit is recorded behind its fault.
    let at = pick(&all_died, index)? + 1;
    assert!(matches!(parse(&history.records[at].1).event, Event::Exit(_)));
    history.records.remove(at);
    Some(())
}

const CHANGES: [(&str, Change); 9] = [
    ("lose", lose),
    ("skip", skip),
    ("repeat", repeat),
    ("swap acks", swap_acks),
    ("corrupt", corrupt),
    ("replace", replace),
    ("deny", deny),
    ("fence", fence),
    ("forget", forget),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn clean_history_passes(options in options()) {
        let report = History::of(&options).report();
        prop_assert_eq!(report.verdict, Verdict::Passed, "{}", report.text());
    }

    #[test]
    fn every_change_of_a_clean_history_is_found(options in strict_options(), index in any::<Index>()) {
        let clean = History::of(&options);
        for (name, change) in CHANGES {
            let mut history = clean.clone();
            if change(&mut history, &index).is_some() {
                let report = history.report();
                prop_assert_eq!(report.verdict, Verdict::Violated, "{}: {}", name, report.text());
            }
        }
    }

    #[test]
    fn gap_that_is_not_told_is_found(options in options(), index in any::<Index>()) {
        let mut history = History::of(&Generate { slow: 1, ..options });
        if hush(&mut history, &index).is_some() {
            let report = history.report();
            prop_assert_eq!(report.verdict, Verdict::Violated, "{}", report.text());
        }
    }

    #[test]
    fn death_that_nobody_saw_excuses_nothing(options in options(), index in any::<Index>()) {
        let mut history = History::of(&Generate { total_losses: 1, ..options });
        if revive(&mut history, &index).is_some() {
            let report = history.report();
            prop_assert_eq!(report.verdict, Verdict::Violated, "{}", report.text());
        }
    }

    #[test]
    fn verdict_depends_neither_on_the_order_of_files_nor_on_where_records_are_put_aside(
        options in options(),
        index in any::<Index>(),
        change in 0..CHANGES.len(),
        order in Just(()).prop_perturb(|(), rng| rng),
    ) {
        let mut history = History::of(&options);
        let _ = CHANGES[change].1(&mut history, &index);
        let expected = findings(&history.report());
        let mut processes: Vec<Process> = (0..history.processes).collect();
        let mut rng = order;
        for at in (1..processes.len()).rev() {
            processes.swap(at, rng.random_range(0..=at));
        }
        prop_assert_eq!(&findings(&history.judge(CheckOptions::default(), &processes)), &expected);
        let on_disk = CheckOptions { gathered_bytes_max: 0, ..CheckOptions::default() };
        prop_assert_eq!(&findings(&history.judge(on_disk, &processes)), &expected);
    }
}
