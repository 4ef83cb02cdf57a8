//! Every step of a run meets every fault, over a world in memory: afterwards the run is done,
//! or nothing of it is left, or what is left is named exactly.
#![allow(clippy::unwrap_used)] // a test helper that fails is a test that fails

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use migrate_core::journal::{Entry, Journal, MemoryJournal, Outcome, RunState};
use migrate_core::{
    CancelToken, Clock, Context, Error, ErrorKind, Leftover, Probe, Result, Run, RunId, Step,
    StepCx,
};
use serde_json::json;
use tokio::sync::Notify;

const STEPS: [&str; 4] = ["snapshot", "create", "transfer", "publish"];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    FailBefore,
    FailAfter,
    CancelDuring,
    /// The process dies when the effect is there and the journal does not know.
    CrashBeforeJournal,
    /// The same, and the effect comes only while the next process is already asking.
    CrashWhilePending,
    CrashAfterJournal,
    UndoFails,
}

const FAULTS: [Fault; 7] = [
    Fault::FailBefore,
    Fault::FailAfter,
    Fault::CancelDuring,
    Fault::CrashBeforeJournal,
    Fault::CrashWhilePending,
    Fault::CrashAfterJournal,
    Fault::UndoFails,
];

/// The remote end: objects by token, and how often each was made.
#[derive(Default)]
struct World {
    objects: Mutex<BTreeMap<String, String>>,
    made: Mutex<BTreeMap<String, u32>>,
    pending: Mutex<Option<(String, u32)>>,
}

impl World {
    fn make(&self, token: &str) {
        *self.made.lock().unwrap().entry(token.to_owned()).or_default() += 1;
        self.objects.lock().unwrap().insert(token.to_owned(), "there".to_owned());
    }
}

struct Make {
    name: &'static str,
    world: Arc<World>,
    fault: Option<Fault>,
    cancel: CancelToken,
}

#[async_trait]
impl Step for Make {
    const NAME: &'static str = "make";
    const VERSION: u32 = 1;
    const MAKES: Option<&'static str> = Some("object");
    type Output = String;

    fn key(&self) -> String {
        self.name.to_owned()
    }

    async fn run(&self, cx: &StepCx) -> Result<String> {
        let failed = || Error::new(ErrorKind::Target, format!("{} failed", self.name));
        match self.fault {
            Some(Fault::FailBefore) => return Err(failed()),
            Some(Fault::CrashWhilePending) => {
                *self.world.pending.lock().unwrap() = Some((cx.token(), 3));
                return std::future::pending().await;
            }
            _ => self.world.make(&cx.token()),
        }
        match self.fault {
            Some(Fault::FailAfter | Fault::UndoFails) => Err(failed()),
            Some(Fault::CancelDuring) => {
                self.cancel.cancel();
                cx.guard(std::future::pending::<Result<()>>()).await?;
                Ok(String::new())
            }
            _ => Ok(cx.token()),
        }
    }

    async fn probe(&self, cx: &StepCx) -> Result<Probe<String>> {
        let mut pending = self.world.pending.lock().unwrap();
        if let Some((token, left)) = pending.as_mut()
            && *token == cx.token()
        {
            if *left > 0 {
                *left -= 1;
                return Ok(Probe::Pending);
            }
            self.world.make(token);
            *pending = None;
        }
        let there = self.world.objects.lock().unwrap().contains_key(&cx.token());
        Ok(if there { Probe::Done(cx.token()) } else { Probe::Absent })
    }

    async fn undo(&self, cx: &StepCx, output: Option<String>) -> Result<()> {
        assert!(output.is_none_or(|o| o == cx.token()));
        assert!(!cx.cancel().is_cancelled(), "an undo must not hear the cancellation");
        if self.fault == Some(Fault::UndoFails) {
            return Err(Error::new(ErrorKind::Target, "refused")
                .with_leftovers([Leftover::new("object", cx.token())]));
        }
        self.world.objects.lock().unwrap().remove(&cx.token());
        Ok(())
    }
}

/// Time passes only in sleeps, and they end at once.
#[derive(Default)]
struct FakeClock(Arc<AtomicU64>);

impl Clock for FakeClock {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.0.fetch_add(u64::try_from(duration.as_millis()).unwrap(), Ordering::SeqCst);
        Box::pin(async {})
    }
}

/// A journal whose process dies at a chosen entry: before it is written, or right after.
struct DyingJournal {
    inner: MemoryJournal,
    before: Option<usize>,
    after: Option<usize>,
    dead: Arc<Notify>,
}

#[async_trait]
impl Journal for DyingJournal {
    async fn load(&mut self) -> Result<Vec<Entry>> {
        self.inner.load().await
    }
    async fn append(&mut self, entry: &Entry) -> Result<()> {
        let at = self.inner.entries().len();
        if self.before == Some(at) {
            self.dead.notify_one();
            return std::future::pending().await;
        }
        self.inner.append(entry).await?;
        if self.after == Some(at) {
            self.dead.notify_one();
            return std::future::pending().await;
        }
        Ok(())
    }
}

struct Bench {
    world: Arc<World>,
    journal: MemoryJournal,
    run_id: RunId,
}

impl Bench {
    fn new() -> Self {
        let run_id = RunId::from_uuid("4f0a3c52-7c4e-4b0f-9d6e-1f2a3b4c5d6e".parse().unwrap());
        Self { world: Arc::default(), journal: MemoryJournal::new(), run_id }
    }

    /// One process: the whole run, with `fault` at `step`.
    async fn process(
        &self,
        journal: impl Journal + 'static,
        fault: Option<(usize, Fault)>,
    ) -> Result<u32> {
        let cancel = CancelToken::new();
        let context =
            Context::new(self.run_id).with_clock(FakeClock::default()).with_cancel(cancel.clone());
        let mut run = Run::open(journal, json!({"vm": "web01"}), context).await?;
        if let Some(result) = run.result()? {
            return Ok(result);
        }
        let result = async {
            for (i, name) in STEPS.into_iter().enumerate() {
                let fault = fault.filter(|(at, _)| *at == i).map(|(_, f)| f);
                let world = Arc::clone(&self.world);
                run.step(Make { name, world, fault, cancel: cancel.clone() }).await?;
            }
            run.commit().await?;
            Ok(7)
        }
        .await;
        run.finish(result).await
    }

    /// A process that dies when `dead` says so.
    async fn killed(&self, journal: DyingJournal, fault: Option<(usize, Fault)>) {
        let dead = Arc::clone(&journal.dead);
        tokio::select! {
            biased;
            result = self.process(journal, fault) => panic!("it was to die, but gave {result:?}"),
            () = dead.notified() => {}
        }
    }

    fn dying(&self, before: Option<usize>, after: Option<usize>) -> DyingJournal {
        DyingJournal { inner: self.journal.clone(), before, after, dead: Arc::default() }
    }

    fn assert_clean(&self, what: &str) {
        assert!(self.world.objects.lock().unwrap().is_empty(), "{what}: objects are left");
        let state = RunState::fold(&self.journal.entries()).unwrap();
        assert!(matches!(state.outcome(), Some(Outcome::Undone(_))), "{what}: {state:?}");
    }

    fn assert_complete(&self, what: &str) {
        let objects: Vec<String> = self.world.objects.lock().unwrap().keys().cloned().collect();
        let mut expected: Vec<String> =
            STEPS.iter().map(|s| format!("{}/{s}", self.run_id)).collect();
        expected.sort();
        assert_eq!(objects, expected, "{what}");
        assert!(
            self.world.made.lock().unwrap().values().all(|n| *n == 1),
            "{what}: something was made twice"
        );
        let state = RunState::fold(&self.journal.entries()).unwrap();
        assert!(matches!(state.outcome(), Some(Outcome::Finished(_))), "{what}: {state:?}");
    }
}

/// The index of the entry `StepDone` of step `i`: the run's own entry, then two for each step.
fn done_entry(i: usize) -> usize {
    2 + 2 * i
}

#[tokio::test]
async fn every_fault_at_every_step() {
    for (step, name) in STEPS.into_iter().enumerate() {
        for fault in FAULTS {
            let what = format!("{fault:?} at {name}");
            let bench = Bench::new();
            match fault {
                Fault::FailBefore | Fault::FailAfter => {
                    let e = bench
                        .process(bench.journal.clone(), Some((step, fault)))
                        .await
                        .unwrap_err();
                    assert_eq!(e.to_string(), format!("{name} failed"));
                    bench.assert_clean(&what);
                    // What was undone is not begun again in the same journal.
                    let e = bench.process(bench.journal.clone(), None).await.unwrap_err();
                    assert_eq!(e.kind(), ErrorKind::Undone);
                }
                Fault::CancelDuring => {
                    let e = bench
                        .process(bench.journal.clone(), Some((step, fault)))
                        .await
                        .unwrap_err();
                    assert!(e.is_cancelled(), "{what}: {e}");
                    bench.assert_clean(&what);
                }
                Fault::CrashBeforeJournal | Fault::CrashAfterJournal => {
                    let at = done_entry(step);
                    let (before, after) = match fault {
                        Fault::CrashBeforeJournal => (Some(at), None),
                        _ => (None, Some(at)),
                    };
                    bench.killed(bench.dying(before, after), None).await;
                    assert_eq!(bench.process(bench.journal.clone(), None).await.unwrap(), 7);
                    bench.assert_complete(&what);
                }
                Fault::CrashWhilePending => {
                    let journal = bench.dying(None, None);
                    let dead = Arc::clone(&journal.dead);
                    dead.notify_one();
                    tokio::select! {
                        biased;
                        r = bench.process(journal, Some((step, fault))) => panic!("{r:?}"),
                        () = dead.notified() => {}
                    }
                    assert_eq!(bench.process(bench.journal.clone(), None).await.unwrap(), 7);
                    bench.assert_complete(&what);
                }
                Fault::UndoFails => {
                    let e = bench
                        .process(bench.journal.clone(), Some((step, fault)))
                        .await
                        .unwrap_err();
                    assert_eq!(e.kind(), ErrorKind::Stuck, "{what}");
                    let token = format!("{}/{name}", bench.run_id);
                    assert_eq!(e.leftovers(), [Leftover::new("object", token.as_str())]);
                    assert!(e.to_string().contains(&token), "{e}");
                    // All the others are gone, and the journal tells the same.
                    let left: Vec<_> =
                        bench.world.objects.lock().unwrap().keys().cloned().collect();
                    assert_eq!(left, [token]);
                    // Once the reason has passed, resuming undoes the rest.
                    let e = bench.process(bench.journal.clone(), None).await.unwrap_err();
                    assert_eq!(e.kind(), ErrorKind::Undone);
                    bench.assert_clean(&what);
                }
            }
        }
    }
}

#[tokio::test]
async fn a_crash_at_every_entry_of_an_undo_is_undone_by_the_next_process() {
    let failing = Some((2, Fault::FailAfter));
    let clean = Bench::new();
    clean.process(clean.journal.clone(), failing).await.unwrap_err();
    let entries = clean.journal.entries().len();
    for at in 1..entries {
        for after in [false, true] {
            let bench = Bench::new();
            let (b, a) = if after { (None, Some(at)) } else { (Some(at), None) };
            if after && at == entries - 1 {
                continue;
            }
            bench.killed(bench.dying(b, a), failing).await;
            let result = bench.process(bench.journal.clone(), failing).await;
            // A step whose effect was there when the process died is found by the probe.
            if result.is_ok() {
                bench.assert_complete(&format!("crash at {at}"));
            } else {
                bench.assert_clean(&format!("crash at {at}"));
            }
        }
    }
}

#[tokio::test]
async fn a_finished_run_tells_its_result_again() {
    let bench = Bench::new();
    assert_eq!(bench.process(bench.journal.clone(), None).await.unwrap(), 7);
    let entries = bench.journal.entries();
    assert_eq!(bench.process(bench.journal.clone(), None).await.unwrap(), 7);
    assert_eq!(bench.journal.entries(), entries);
    bench.assert_complete("finished");
}

#[tokio::test]
async fn another_spec_is_refused_and_changes_nothing() {
    let bench = Bench::new();
    bench.killed(bench.dying(None, Some(3)), None).await;
    let entries = bench.journal.entries();
    let e = Run::open(bench.journal.clone(), json!({"vm": "db02"}), Context::new(RunId::random()))
        .await
        .unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Conflict);
    assert!(e.to_string().contains("web01"), "{e}");
    assert_eq!(bench.journal.entries(), entries);
}

/// A step of another version: refused, nothing is touched; only giving up is possible.
#[tokio::test]
async fn another_version_of_a_step_can_only_be_undone() {
    struct Newer(Arc<World>);
    #[async_trait]
    impl Step for Newer {
        const NAME: &'static str = "snapshot";
        const VERSION: u32 = 2;
        type Output = u64;
        async fn run(&self, _: &StepCx) -> Result<u64> {
            panic!("must not act")
        }
        async fn probe(&self, _: &StepCx) -> Result<Probe<u64>> {
            Ok(Probe::Absent)
        }
        async fn undo(&self, cx: &StepCx, output: Option<u64>) -> Result<()> {
            assert_eq!(output, None);
            self.0.objects.lock().unwrap().remove(&cx.token());
            Ok(())
        }
    }
    let bench = Bench::new();
    bench.killed(bench.dying(None, Some(2)), None).await;
    let open =
        || Run::open(bench.journal.clone(), json!({"vm": "web01"}), Context::new(bench.run_id));
    let entries = bench.journal.entries();
    let mut run = open().await.unwrap();
    let result = run.step(Newer(Arc::clone(&bench.world))).await;
    let e = run.finish(result).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Conflict, "{e}");
    assert_eq!(bench.journal.entries(), entries);
    assert_eq!(bench.world.objects.lock().unwrap().len(), 1);

    let mut run = open().await.unwrap();
    run.abandon().unwrap();
    let result = run.step(Newer(Arc::clone(&bench.world))).await;
    run.finish(result).await.unwrap_err();
    bench.assert_clean("abandoned");
}

/// A journal that cannot be written for a while.
struct Full(MemoryJournal, usize, Arc<AtomicBool>);

#[async_trait]
impl Journal for Full {
    async fn load(&mut self) -> Result<Vec<Entry>> {
        self.0.load().await
    }
    async fn append(&mut self, entry: &Entry) -> Result<()> {
        if self.0.entries().len() >= self.1 {
            self.2.store(true, Ordering::SeqCst);
            return Err(Error::new(ErrorKind::Journal, "no space left"));
        }
        self.0.append(entry).await
    }
}

/// What was undone without a word in the journal would be taken for done by the next process, which
/// would then report a success that is none. So nothing is undone before that is written.
#[tokio::test]
async fn a_journal_that_cannot_be_written_never_leads_to_a_wrong_success() {
    for room in 2..10 {
        let what = format!("room for {room}");
        let bench = Bench::new();
        let hit = Arc::new(AtomicBool::new(false));
        let full = Full(bench.journal.clone(), room, Arc::clone(&hit));
        let e = bench.process(full, None).await.unwrap_err();
        assert!(hit.load(Ordering::SeqCst));
        assert_eq!(e.kind(), ErrorKind::Stuck, "{what}: {e}");
        assert!(e.to_string().contains("no space left"), "{what}: {e}");
        assert!(e.leftovers().iter().all(|l| l.id == bench.run_id.object_name()), "{e}");
        let there = bench.world.objects.lock().unwrap().len();
        assert!(e.leftovers().len() >= there, "{what}: {there} are there, but {e}");
        // With room again, the run goes on where it was.
        assert_eq!(bench.process(bench.journal.clone(), None).await.unwrap(), 7, "{what}");
        bench.assert_complete(&what);
    }
}

/// Once the journal says that the run goes back, its later silence keeps nobody from tidying up.
#[tokio::test]
async fn a_journal_that_falls_silent_during_an_undo_does_not_stop_it() {
    let clean = Bench::new();
    clean.process(clean.journal.clone(), Some((2, Fault::FailAfter))).await.unwrap_err();
    let failed = |e: &Entry| matches!(e, Entry::StepFailed { .. });
    let back = clean.journal.entries().iter().position(failed).unwrap() + 1;
    for room in back..clean.journal.entries().len() {
        let bench = Bench::new();
        let full = Full(bench.journal.clone(), room, Arc::default());
        let e = bench.process(full, Some((2, Fault::FailAfter))).await.unwrap_err();
        assert_eq!(e.to_string(), "transfer failed", "room for {room}");
        assert!(bench.world.objects.lock().unwrap().is_empty(), "room for {room}");
        let e = bench.process(bench.journal.clone(), None).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Undone, "room for {room}");
        bench.assert_clean("silent");
    }
}

/// Two steps of one key would be one for the journal: the second one would never act, and the run
/// would succeed without it.
#[tokio::test]
async fn a_key_that_occurs_twice_is_refused() {
    let bench = Bench::new();
    let context = Context::new(bench.run_id).with_clock(FakeClock::default());
    let mut run = Run::open(bench.journal.clone(), json!({}), context).await.unwrap();
    let result = async {
        for _ in 0..2 {
            let world = Arc::clone(&bench.world);
            let cancel = CancelToken::new();
            run.step(Make { name: "transfer", world, fault: None, cancel }).await?;
        }
        run.commit().await
    }
    .await;
    let e = run.finish(result).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Internal, "{e}");
    assert!(e.to_string().contains("transfer"), "{e}");
    bench.assert_clean("twice");
}

/// How a step does not let itself be undone.
#[derive(Clone, Copy, PartialEq)]
enum Stubborn {
    /// The remote end is away for a minute or two.
    Away,
    /// Its work never ends.
    Endless,
    /// It is refused for good.
    Refused,
}

struct Clinging(Stubborn, Arc<AtomicU64>);

#[async_trait]
impl Step for Clinging {
    const NAME: &'static str = "clinging";
    const VERSION: u32 = 1;
    type Output = ();
    async fn run(&self, _: &StepCx) -> Result<()> {
        Err(Error::new(ErrorKind::Target, "it failed"))
    }
    async fn probe(&self, _: &StepCx) -> Result<Probe<()>> {
        Ok(if self.0 == Stubborn::Endless { Probe::Pending } else { Probe::Absent })
    }
    async fn undo(&self, _: &StepCx, _: Option<()>) -> Result<()> {
        let tries = self.1.fetch_add(1, Ordering::SeqCst);
        let e = Error::new(ErrorKind::Target, "no");
        match self.0 {
            Stubborn::Away if tries < 7 => Err(e.with_retryable(true)),
            Stubborn::Refused => Err(e),
            _ => Ok(()),
        }
    }
}

/// An end that is away for a moment leaves nothing; what never ends is waited for once, not again
/// with each try; what is refused is told soon.
#[tokio::test]
async fn an_undo_is_as_patient_as_its_failure_is_worth() {
    let minute = Duration::from_secs(60);
    for (how, stuck, least, most) in [
        (Stubborn::Away, false, minute / 2, 5 * minute),
        (Stubborn::Endless, true, 20 * minute, 40 * minute),
        (Stubborn::Refused, true, Duration::ZERO, minute),
    ] {
        let clock = FakeClock::default();
        let time = Arc::clone(&clock.0);
        let context = Context::new(RunId::random()).with_clock(clock);
        let mut run = Run::open(MemoryJournal::new(), json!({}), context).await.unwrap();
        let result = run.step(Clinging(how, Arc::default())).await;
        let e = run.finish(result).await.unwrap_err();
        assert_eq!(e.kind() == ErrorKind::Stuck, stuck, "{e}");
        let took = Duration::from_millis(time.load(Ordering::SeqCst));
        assert!(took >= least && took <= most, "{e}: {took:?}");
    }
}

/// A failure that may pass is tried again, but what has happened in spite of it is not done twice.
#[tokio::test]
async fn temporary_failures_are_tried_again() {
    struct Flaky(Arc<World>, AtomicU64, bool);
    #[async_trait]
    impl Step for Flaky {
        const NAME: &'static str = "flaky";
        const VERSION: u32 = 1;
        type Output = String;
        async fn run(&self, cx: &StepCx) -> Result<String> {
            let first = self.1.fetch_add(1, Ordering::SeqCst) == 0;
            if !first || self.2 {
                self.0.make(&cx.token());
            }
            if first {
                return Err(Error::new(ErrorKind::Target, "busy").with_retryable(true));
            }
            Ok(cx.token())
        }
        async fn probe(&self, cx: &StepCx) -> Result<Probe<String>> {
            let there = self.0.objects.lock().unwrap().contains_key(&cx.token());
            Ok(if there { Probe::Done(cx.token()) } else { Probe::Absent })
        }
        async fn undo(&self, _: &StepCx, _: Option<String>) -> Result<()> {
            Ok(())
        }
    }
    for effect_before_the_failure in [false, true] {
        let world = Arc::new(World::default());
        let context = Context::new(RunId::random()).with_clock(FakeClock::default());
        let mut run = Run::open(MemoryJournal::new(), json!({}), context).await.unwrap();
        let step = Flaky(Arc::clone(&world), AtomicU64::new(0), effect_before_the_failure);
        let token = run.step(step).await.unwrap();
        assert_eq!(world.made.lock().unwrap().get(&token), Some(&1));
    }
}
