use std::time::Duration;

use broky_proto::frame::PREFIX_LEN;
use broky_proto::id::ProducerId;
use broky_proto::v1::{ErrorCode, Outcome, OutcomeKind, PushRequest};
use prost::Message as _;

use super::*;
use crate::message::{AsMessage as _, Message};
use crate::producer::ticket::Receipt;
use crate::producer::{PushError, Ticket};

const COMMITTED: Result<Receipt, PushError> = Ok(Receipt { position: None, duplicate: false });

/// A window with a stream, the tickets of what was pushed, and a clock.
struct Bench {
    window: Window,
    numbering: Numbering,
    tickets: Vec<Ticket>,
    now: Instant,
}

impl Bench {
    fn new(options: ProducerOptions) -> Self {
        let mut window = Window::new(options);
        window.handle_connect();
        Self { window, numbering: Numbering::new(ProducerId(77)), tickets: Vec::new(), now: Instant::now() }
    }

    fn push(&mut self, payload: &str) {
        let message = Message::new("k", payload.to_owned());
        let now = self.now;
        let (ticket, _) = self.window.append(&Encoder::new(message.as_message()), || now, Ticket::new);
        self.tickets.push(ticket);
        self.window.check_invariants();
    }

    /// Pushes each as a batch of its own and sends it.
    fn send_each(&mut self, payloads: &[&str]) {
        for payload in payloads {
            self.push(payload);
            self.window.hurry();
            self.send().expect("a request");
        }
    }

    fn send(&mut self) -> Option<PushRequest> {
        let framed = self.window.next_request(&mut self.numbering)?;
        self.window.check_invariants();
        Some(PushRequest::decode(&framed[PREFIX_LEN..]).unwrap())
    }

    fn send_all(&mut self) -> Vec<(u64, Vec<String>)> {
        std::iter::from_fn(|| self.send()).map(|request| (request.sequence, payloads(&request))).collect()
    }

    fn answer(&mut self, outcomes: Vec<Outcome>) -> Next {
        let next = self.window.handle_response(PushResponse { outcomes, positions: Vec::new() }).unwrap();
        self.window.check_invariants();
        next
    }

    fn outcome(&self, at: usize) -> Option<Result<Receipt, PushError>> {
        self.tickets[at].outcome()
    }

    fn pass(&mut self, time: Duration) -> bool {
        self.now += time;
        let is_owed = self.window.handle_timeout(self.now, "the test");
        self.window.check_invariants();
        is_owed
    }
}

fn payloads(request: &PushRequest) -> Vec<String> {
    request.messages.iter().map(|message| String::from_utf8(message.payload.to_vec()).unwrap()).collect()
}

fn batch(sequence: u64, payloads: &[&str]) -> (u64, Vec<String>) {
    (sequence, payloads.iter().map(ToString::to_string).collect())
}

fn outcome(first: u32, count: u32, kind: OutcomeKind) -> Outcome {
    Outcome { first, count, kind: kind.into(), ..Outcome::default() }
}

fn committed(first: u32, count: u32) -> Outcome {
    outcome(first, count, OutcomeKind::Committed)
}

fn refused(first: u32, count: u32, code: ErrorCode) -> Outcome {
    let retry = code.is_retryable();
    Outcome { code: code.into(), retry, ..outcome(first, count, OutcomeKind::Rejected) }
}

fn eager() -> ProducerOptions {
    ProducerOptions { unanswered_requests_max: 100, ..ProducerOptions::default() }
}

#[test]
fn idle_stream_gets_a_batch_at_once() {
    let mut bench = Bench::new(ProducerOptions::default());
    assert!(!bench.window.has_request());
    bench.push("a");
    assert_eq!(bench.send_all(), [batch(1, &["a"])]);
}

#[test]
fn batch_grows_while_enough_requests_are_unanswered() {
    let mut bench = Bench::new(ProducerOptions { unanswered_requests_max: 1, ..ProducerOptions::default() });
    bench.send_each(&["a"]);
    bench.push("b");
    bench.push("c");
    assert_eq!(bench.send_all(), []);
    bench.answer(vec![committed(0, 1)]);
    assert_eq!(bench.send_all(), [batch(2, &["b", "c"])]);
    assert_eq!(bench.outcome(0), Some(COMMITTED));
    assert_eq!(bench.outcome(1), None);
}

#[test]
fn hurried_batch_does_not_wait_for_answers() {
    let mut bench = Bench::new(ProducerOptions { unanswered_requests_max: 1, ..ProducerOptions::default() });
    bench.send_each(&["a"]);
    bench.push("b");
    let mark = bench.window.hurry();
    assert_eq!(bench.send_all(), [batch(2, &["b"])]);
    bench.answer(vec![committed(0, 1)]);
    assert!(!bench.window.is_settled(mark));
    bench.answer(vec![committed(0, 1)]);
    assert!(bench.window.is_settled(mark));
}

#[test]
fn full_batch_is_closed() {
    let mut bench = Bench::new(ProducerOptions { batch_bytes_max: 1024, ..eager() });
    let payload = "x".repeat(500);
    (0..4).for_each(|_| bench.push(&payload));
    assert_eq!(bench.send_all().len(), 2);
    assert!(bench.window.charge() > 2000);
    bench.answer(vec![committed(0, 2)]);
    bench.answer(vec![committed(0, 2)]);
    assert_eq!(bench.window.charge(), 0);
}

#[test]
fn batch_holds_no_more_messages_than_a_request_may() {
    let mut bench = Bench::new(ProducerOptions { batch_bytes_max: 4 << 20, ..eager() });
    for _ in 0..=BATCH_MESSAGES_MAX {
        let (ticket, _) = bench.window.append(&Encoder::new(crate::MessageRef::default()), Instant::now, Ticket::new);
        drop(ticket);
    }
    assert_eq!(bench.send().unwrap().messages.len(), BATCH_MESSAGES_MAX);
    assert_eq!(bench.send().unwrap().messages.len(), 1);
}

#[test]
fn break_sends_the_unanswered_again_in_order_before_anything_new() {
    let mut bench = Bench::new(eager());
    bench.send_each(&["a", "b", "c"]);
    bench.answer(vec![committed(0, 1)]);
    bench.push("d");
    bench.window.handle_disconnect();
    assert_eq!(bench.send_all(), []);
    bench.window.handle_connect();
    assert_eq!(bench.send_all(), [batch(2, &["b"]), batch(3, &["c"]), batch(4, &["d"])]);
}

#[test]
fn refused_message_is_probed_alone_before_what_is_behind_it() {
    let mut bench = Bench::new(eager());
    bench.send_each(&["a", "b", "c"]);
    bench.push("d");
    assert_eq!(bench.answer(vec![refused(0, 1, ErrorCode::NotEnoughReplicas)]), Next::Continue);
    assert_eq!(bench.send_all(), [], "nothing new overtakes what was refused");
    assert_eq!(bench.answer(vec![refused(0, 1, ErrorCode::OutOfSequence)]), Next::Continue);
    assert_eq!(bench.answer(vec![committed(0, 1)]), Next::Wait);
    bench.window.handle_retry();
    assert_eq!(bench.send_all(), [batch(1, &["a"])]);
    assert_eq!(bench.answer(vec![committed(0, 1)]), Next::Continue);
    assert_eq!(bench.send_all(), [batch(2, &["b"]), batch(4, &["d"])]);
}

#[test]
fn refused_probe_waits_again() {
    let mut bench = Bench::new(eager());
    bench.send_each(&["a", "b"]);
    bench.answer(vec![refused(0, 1, ErrorCode::NotLeader)]);
    bench.answer(vec![refused(0, 1, ErrorCode::OutOfSequence)]);
    for _ in 0..3 {
        bench.window.handle_retry();
        assert_eq!(bench.send_all(), [batch(1, &["a"])]);
        assert_eq!(bench.answer(vec![refused(0, 1, ErrorCode::NotLeader)]), Next::Wait);
    }
}

#[test]
fn node_that_shuts_down_is_left() {
    let mut bench = Bench::new(eager());
    bench.send_each(&["a", "b"]);
    assert_eq!(bench.answer(vec![refused(0, 1, ErrorCode::ShuttingDown)]), Next::Continue);
    assert_eq!(bench.answer(vec![refused(0, 1, ErrorCode::ShuttingDown)]), Next::Leave);
}

#[test]
fn first_outcome_of_a_message_stands() {
    let mut bench = Bench::new(eager());
    bench.push("a");
    bench.push("b");
    bench.send_all();
    assert_eq!(bench.answer(vec![committed(0, 1), refused(1, 1, ErrorCode::NotLeader)]), Next::Wait);
    assert_eq!((bench.outcome(0), bench.outcome(1)), (Some(COMMITTED), None));
    bench.window.handle_retry();
    assert_eq!(bench.send_all(), [batch(1, &["a", "b"])]);
    let duplicate = Outcome { duplicate: true, ..committed(0, 1) };
    bench.answer(vec![duplicate, committed(1, 1)]);
    assert_eq!((bench.outcome(0), bench.outcome(1)), (Some(COMMITTED), Some(COMMITTED)));
    assert_eq!(bench.window.summary(), FlushSummary { committed: 2, ..FlushSummary::default() });
}

#[test]
fn refusal_of_what_is_settled_changes_no_outcome_and_raises_the_epoch() {
    let mut bench = Bench::new(eager());
    bench.push("a");
    bench.push("b");
    bench.send_all();
    bench.answer(vec![committed(0, 1), refused(1, 1, ErrorCode::NotLeader)]);
    bench.window.handle_retry();
    bench.send_all();
    assert_eq!(bench.answer(vec![refused(0, 1, ErrorCode::OutOfSequence), committed(1, 1)]), Next::Wait);
    assert_eq!((bench.outcome(0), bench.outcome(1)), (Some(COMMITTED), Some(COMMITTED)));
    assert!(bench.window.is_empty());
    bench.window.handle_retry();
    assert!(bench.window.is_flowing());
    bench.push("c");
    assert_eq!(told(bench.send()), Some((3, 3)));
}

#[test]
fn final_refusal_settles_at_once_and_alone() {
    let mut bench = Bench::new(eager());
    ["a", "b", "c"].iter().for_each(|payload| bench.push(payload));
    bench.send_all();
    let outcomes = vec![committed(0, 1), refused(1, 1, ErrorCode::MessageTooLarge), committed(2, 1)];
    assert_eq!(bench.answer(outcomes), Next::Continue);
    let code = |outcome| match outcome {
        Some(Err(PushError::Rejected { code, retry: false, .. })) => Some(code),
        _ => None,
    };
    assert_eq!(code(bench.outcome(1)), Some(ErrorCode::MessageTooLarge));
    assert_eq!((bench.outcome(0), bench.outcome(2)), (Some(COMMITTED), Some(COMMITTED)));
}

#[test]
fn final_refusal_is_not_told_while_the_batch_has_to_go_again() {
    let mut bench = Bench::new(eager());
    ["a", "b"].iter().for_each(|payload| bench.push(payload));
    bench.send_all();
    bench.answer(vec![refused(0, 1, ErrorCode::MessageTooLarge), refused(1, 1, ErrorCode::NotLeader)]);
    assert_eq!((bench.outcome(0), bench.outcome(1)), (None, None));
    bench.window.handle_retry();
    bench.send_all();
    bench.answer(vec![committed(0, 2)]);
    assert_eq!((bench.outcome(0), bench.outcome(1)), (Some(COMMITTED), Some(COMMITTED)), "another node takes it");
}

#[test]
fn final_refusal_after_an_unanswered_attempt_is_unknown() {
    let mut bench = Bench::new(eager());
    bench.send_each(&["a"]);
    bench.window.handle_disconnect();
    bench.window.handle_connect();
    bench.send_all();
    bench.answer(vec![refused(0, 1, ErrorCode::MessageTooLarge)]);
    assert!(bench.outcome(0).unwrap().unwrap_err().is_unknown());
}

#[test]
fn unknown_answer_is_retried() {
    let mut bench = Bench::new(eager());
    bench.send_each(&["a"]);
    let unknown = Outcome { retry: true, ..outcome(0, 1, OutcomeKind::Unknown) };
    assert_eq!(bench.answer(vec![unknown]), Next::Wait);
    bench.window.handle_retry();
    assert_eq!(bench.send_all(), [batch(1, &["a"])]);
    bench.answer(vec![Outcome { duplicate: true, ..committed(0, 1) }]);
    assert_eq!(bench.outcome(0), Some(Ok(Receipt { position: None, duplicate: true })));
    assert_eq!(bench.window.summary().duplicates, 1);
}

#[test]
fn what_was_committed_and_is_in_doubt_again_is_not_waited_for() {
    let mut bench = Bench::new(ProducerOptions { unanswered_requests_max: 1, ..ProducerOptions::default() });
    bench.send_each(&["x"]);
    ["a", "b"].into_iter().for_each(|payload| bench.push(payload));
    bench.answer(vec![committed(0, 1)]);
    bench.send().expect("both");
    bench.push("c");
    let doubt =
        |first| Outcome { code: ErrorCode::NotLeader.into(), retry: true, ..outcome(first, 1, OutcomeKind::Unknown) };
    assert_eq!(bench.answer(vec![committed(0, 1), doubt(1)]), Next::Wait);
    assert_eq!(bench.outcome(1), Some(COMMITTED));
    bench.window.handle_retry();
    assert_eq!(bench.send_all(), [batch(2, &["a", "b"])]);
    // The leader has changed once more: of `a` its node does not know any more that it was committed.
    assert_eq!(bench.answer(vec![doubt(0), committed(1, 1)]), Next::Wait);
    assert_eq!(bench.outcome(2), Some(COMMITTED));
    bench.window.handle_retry();
    assert_eq!(told(bench.send()), Some((4, 3)), "it goes on in a higher epoch");
}

#[test]
fn unknown_answer_that_a_retry_cannot_change_is_told() {
    let mut bench = Bench::new(eager());
    bench.send_each(&["a"]);
    assert_eq!(bench.answer(vec![outcome(0, 1, OutcomeKind::Unknown)]), Next::Continue);
    assert!(bench.outcome(0).unwrap().unwrap_err().is_unknown());
}

#[test]
fn message_that_was_never_sent_is_reported_as_such() {
    let mut bench = Bench::new(eager());
    bench.window.handle_disconnect();
    bench.push("a");
    assert!(!bench.pass(Duration::from_secs(29)));
    assert_eq!(bench.outcome(0), None);
    assert!(!bench.pass(Duration::from_secs(1)));
    assert!(matches!(bench.outcome(0), Some(Err(PushError::NotSent { .. }))));
    assert!(bench.window.is_empty());
}

#[test]
fn message_without_an_answer_is_unknown_and_the_stream_is_left() {
    let mut bench = Bench::new(eager());
    bench.send_each(&["a"]);
    assert!(bench.pass(Duration::from_secs(30)));
    assert!(bench.outcome(0).unwrap().unwrap_err().is_unknown());
    assert_eq!(bench.answer(vec![committed(0, 1)]), Next::Continue, "a late answer changes nothing");
    assert_eq!(bench.window.summary(), FlushSummary { unknown: 1, ..FlushSummary::default() });
}

#[test]
fn message_refused_until_the_deadline_is_rejected() {
    let mut bench = Bench::new(eager());
    bench.send_each(&["a"]);
    bench.answer(vec![refused(0, 1, ErrorCode::NotEnoughReplicas)]);
    assert!(!bench.pass(Duration::from_secs(30)));
    assert!(matches!(bench.outcome(0), Some(Err(PushError::Rejected { retry: true, .. }))));
}

/// A request's sequence and epoch.
fn told(request: Option<PushRequest>) -> Option<(u64, u32)> {
    request.map(|request| {
        assert_eq!(request.producer_id, 77);
        (request.sequence, request.producer_epoch)
    })
}

#[test]
fn epoch_is_raised_when_the_sending_goes_back() {
    let mut bench = Bench::new(eager());
    bench.push("a");
    assert_eq!(told(bench.send()), Some((1, 1)));
    bench.push("b");
    bench.window.hurry();
    assert_eq!(told(bench.send()), Some((2, 1)));
    bench.answer(vec![committed(0, 1)]);
    bench.window.handle_disconnect();
    bench.window.handle_connect();
    assert_eq!(told(bench.send()), Some((2, 2)), "the same bytes but for the epoch");
    bench.answer(vec![refused(0, 1, ErrorCode::NotEnoughReplicas)]);
    bench.window.handle_retry();
    // Another window of the same producer.
    assert_eq!(bench.numbering.raise_epoch(), ProducerEpoch(3));
    assert_eq!(told(bench.send()), Some((2, 4)));
    bench.answer(vec![committed(0, 1)]);
    bench.numbering.take(10);
    bench.push("c");
    assert_eq!(told(bench.send()), Some((13, 4)));
}

#[test]
fn epoch_is_raised_above_that_of_another_window_once_everything_is_answered() {
    let mut bench = Bench::new(eager());
    bench.send_each(&["a", "b"]);
    bench.window.go_on_from(ProducerEpoch(1));
    bench.send_each(&["c"]);
    assert_eq!(bench.numbering.raise_epoch(), ProducerEpoch(2));
    bench.window.go_on_from(ProducerEpoch(2));
    bench.push("d");
    bench.window.hurry();
    (0..3).for_each(|_| {
        assert_eq!(told(bench.send()), None);
        bench.answer(vec![committed(0, 1)]);
    });
    assert_eq!(told(bench.send()), Some((4, 3)));
}

#[test]
fn nobody_waits_for_what_was_given_up() {
    let mut bench = Bench::new(eager());
    bench.send_each(&["a"]);
    bench.pass(Duration::from_secs(20));
    bench.send_each(&["b"]);
    bench.push("c");
    bench.answer(vec![refused(0, 1, ErrorCode::NotEnoughReplicas)]);
    bench.answer(vec![refused(0, 1, ErrorCode::OutOfSequence)]);
    bench.pass(Duration::from_secs(10));
    bench.window.handle_retry();
    assert_eq!(told(bench.send()), Some((2, 2)));
    bench.answer(vec![committed(0, 1)]);
    assert_eq!(told(bench.send()), Some((3, 2)));
}

#[test]
fn after_a_break_the_node_is_told_what_came_elsewhere() {
    let mut bench = Bench::new(eager());
    bench.send_each(&["a", "b", "c"]);
    bench.answer(vec![committed(0, 1)]);
    bench.window.handle_disconnect();
    bench.window.handle_connect();
    bench.push("d");
    assert_eq!([told(bench.send()), told(bench.send())], [Some((2, 2)), Some((3, 2))]);
    bench.window.hurry();
    assert_eq!(told(bench.send()), Some((4, 2)));
}

#[test]
fn what_is_sent_again_does_not_change_under_the_transport() {
    let mut bench = Bench::new(eager());
    bench.push("a");
    bench.window.hurry();
    let first = bench.window.next_request(&mut bench.numbering).unwrap();
    bench.push("b");
    bench.window.hurry();
    let held = bench.window.next_request(&mut bench.numbering).unwrap();
    let before = held.to_vec();
    drop(first);
    bench.answer(vec![committed(0, 1)]);
    bench.window.handle_disconnect();
    bench.window.handle_connect();
    let again = bench.window.next_request(&mut bench.numbering).unwrap();
    assert_eq!(before, held);
    let decode = |framed: &Bytes| PushRequest::decode(&framed[PREFIX_LEN..]).unwrap();
    assert_eq!((told(Some(decode(&held))), told(Some(decode(&again)))), (Some((2, 1)), Some((2, 2))));
    assert_eq!(decode(&held).messages, decode(&again).messages);
}

#[test]
fn answer_that_does_not_fit_changes_nothing() {
    let mut bench = Bench::new(eager());
    ["a", "b"].iter().for_each(|payload| bench.push(payload));
    let refuse = |window: &mut Window, outcomes| {
        window.handle_response(PushResponse { outcomes, positions: Vec::new() }).unwrap_err()
    };
    refuse(&mut bench.window, vec![]);
    bench.send_all();
    for outcomes in [
        vec![],
        vec![committed(0, 1)],
        vec![committed(0, 3)],
        vec![committed(1, 1), committed(0, 1)],
        vec![committed(0, 1), committed(0, 1)],
        vec![committed(0, 0), committed(0, 2)],
        vec![committed(0, u32::MAX), committed(u32::MAX, 3)],
        vec![outcome(0, 2, OutcomeKind::Unspecified)],
    ] {
        refuse(&mut bench.window, outcomes);
        bench.window.check_invariants();
        assert_eq!(bench.outcome(0), None);
    }
    bench.answer(vec![committed(0, 2)]);
    assert_eq!(bench.outcome(1), Some(COMMITTED));
}

#[test]
fn refused_stream_fails_its_oldest_request_only() {
    let mut bench = Bench::new(eager());
    bench.send_each(&["a", "b"]);
    bench.window.handle_refusal("the test");
    bench.window.handle_disconnect();
    bench.window.handle_connect();
    assert!(bench.outcome(0).unwrap().unwrap_err().is_unknown());
    assert_eq!(bench.send_all(), [batch(2, &["b"])]);
}

#[test]
fn buffers_are_used_again() {
    let mut bench = Bench::new(eager());
    let mut places = std::collections::HashSet::new();
    for _ in 0..100 {
        bench.push("a");
        let request = bench.window.next_request(&mut bench.numbering).unwrap();
        places.insert(request.as_ptr());
        drop(request);
        bench.answer(vec![committed(0, 1)]);
    }
    assert_eq!(places.len(), 1);
}

#[path = "window_moves_tests.rs"]
mod moves;
