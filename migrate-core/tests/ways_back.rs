//! The way back with the real steps: killed at any moment, twice, or begun from a journal that is
//! older than the world.
#![cfg(all(feature = "openstack", feature = "xenserver"))]
#![allow(clippy::unwrap_used)] // a test helper that fails is a test that fails

mod doubles;
mod world;

use std::path::{Path, PathBuf};

use migrate_core::journal::{Entry, MemoryJournal};
use migrate_core::{ErrorKind, LocalDirectory, Pipeline, VhdFiles};
use vmimage::TargetFormat;

use doubles::{Hasty, context, disk, killed, killed_in};
use world::World;

/// A run that fails where it would publish is killed at every entry of its undo, and so is the
/// process that takes that up.
#[tokio::test(flavor = "multi_thread")]
async fn an_undo_that_is_killed_at_every_entry_and_once_more_leaves_nothing() {
    const FAULT: &str = "fail-nth=1:PATCH /v2/images 403@100";
    let world = World::new().await;
    let pipeline = world.pipeline(TargetFormat::Qcow2).await;
    let whole = MemoryJournal::new();
    world.sim.openstack().faults().set_str(FAULT).unwrap();
    pipeline.run(whole.clone(), context()).await.unwrap_err();
    world.sim.openstack().faults().clear();
    let entries = whole.entries();
    let failed = entries.iter().position(|e| matches!(e, Entry::StepFailed { .. })).unwrap();
    assert!(matches!(entries.last(), Some(Entry::RunUndone { .. })));
    for at in failed..entries.len() {
        for before in [true, false] {
            let what = format!("{before} {at}");
            let journal = MemoryJournal::new();
            world.sim.openstack().faults().set_str(FAULT).unwrap();
            assert!(killed(&pipeline, &journal, at, before).await, "{what}");
            world.sim.openstack().faults().clear();
            if at == failed && before {
                // The failure was never written down: the run is as good as before, and goes on.
                pipeline.undo(journal.clone(), context()).await.unwrap();
            } else {
                // The next process dies, too, at its second word.
                killed(&pipeline, &journal, journal.entries().len() + 1, !before).await;
                let e = pipeline.run(journal.clone(), context()).await.unwrap_err();
                assert_eq!(e.kind(), ErrorKind::Undone, "{what}: {}", e.report());
            }
            assert!(matches!(journal.entries().last(), Some(Entry::RunUndone { .. })), "{what}");
            world.assert_source_unchanged(&what);
            world.assert_no_image(&what);
        }
    }
}

/// The process that resumes a run dies, too, and so does the one after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_run_that_is_killed_again_and_again_ends_whole() {
    for stride in [1, 2, 3] {
        let world = World::new().await;
        let pipeline = world.pipeline(TargetFormat::Qcow2).await;
        let journal = MemoryJournal::new();
        let mut deaths = 0;
        while killed(&pipeline, &journal, journal.entries().len() + stride, deaths % 2 == 0).await {
            deaths += 1;
            assert!(deaths < 200, "it never ends");
        }
        assert!(deaths > 5, "{deaths}");
        let report = pipeline.run(journal, context()).await.unwrap();
        world.assert_source_unchanged("again and again");
        world.assert_images(&report, "again and again");
    }
}

/// A journal that was restored from a backup knows less than has happened. Whatever comes of its run,
/// what has been published stays.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_not_deleted_by_an_older_journal() {
    let world = World::new().await;
    let pipeline = world.pipeline(TargetFormat::Qcow2).await;
    let whole = MemoryJournal::new();
    let report = pipeline.run(whole.clone(), context()).await.unwrap();
    let entries = whole.entries();
    let creates =
        |e: &Entry| matches!(e, Entry::StepStarted { step, .. } if step.starts_with("create-"));
    for len in 1..entries.len() {
        for undo in [false, true] {
            let what = format!("{len} entries, undo {undo}");
            let published = entries[..len]
                .iter()
                .any(|e| matches!(e, Entry::StepStarted { step, .. } if step == "publish"));
            let committed = entries[..len].contains(&Entry::Committed);
            if undo && published && !committed {
                continue; // It is known, and taken back.
            }
            let journal = MemoryJournal::with_entries(entries[..len].to_vec());
            if undo {
                let _ = pipeline.undo(journal, context().with_clock(Hasty)).await;
            } else if let Err(e) = pipeline.run(journal, context().with_clock(Hasty)).await
                && entries[..len].iter().any(creates)
            {
                assert_eq!(e.kind(), ErrorKind::Stuck, "{what}: {}", e.report());
                assert!(e.leftovers().iter().any(|l| l.kind == "published image"), "{what}: {e}");
            }
            world.assert_images(&report, &what);
            world.assert_source_unchanged(&what);
        }
    }
}

/// The same for a folder: killed at every entry of the undo, by a name that somebody has taken.
#[tokio::test(flavor = "multi_thread")]
async fn an_undo_in_a_folder_that_is_killed_leaves_what_is_not_ours() {
    let source = tempfile::tempdir().unwrap();
    let file = disk(source.path(), "root.img", 1, 9);
    let files = |folder: &Path| {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
        names.sort();
        names
    };
    let one = |folder: &Path, taken: &Path| {
        let target = LocalDirectory::new(folder, TargetFormat::Raw).with_name("copy");
        let pipeline = Pipeline::new(VhdFiles::new(&file).with_disk(&file), target);
        let taken = taken.to_owned();
        let context = context().with_observer(move |event: &migrate_core::Event<'_>| {
            if matches!(event, migrate_core::Event::StepStarted { step: "publish", .. }) {
                std::fs::write(&taken, "theirs").unwrap();
            }
        });
        (pipeline, context)
    };
    for name in ["copy.img", "copy-disk2.img", "copy.json"] {
        let folder = tempfile::tempdir().unwrap();
        let taken = folder.path().join(name);
        let whole = MemoryJournal::new();
        let (pipeline, context) = one(folder.path(), &taken);
        pipeline.run(whole.clone(), context).await.unwrap_err();
        assert_eq!(files(folder.path()), [taken], "{name}");
        let entries = whole.entries();
        let failed = entries.iter().position(|e| matches!(e, Entry::StepFailed { .. })).unwrap();
        for at in failed..entries.len() {
            for before in [true, false] {
                let folder = tempfile::tempdir().unwrap();
                let taken = folder.path().join(name);
                let (pipeline, context) = one(folder.path(), &taken);
                let inner = MemoryJournal::new();
                let died = killed_in(&pipeline, &inner, at, before, context).await;
                assert!(died, "{name} {at} {before}: it was to die");
                let (pipeline, context) = one(folder.path(), &taken);
                pipeline.run(inner, context).await.unwrap_err();
                assert_eq!(
                    files(folder.path()),
                    std::slice::from_ref(&taken),
                    "{name} {at} {before}"
                );
                assert_eq!(std::fs::read_to_string(taken).unwrap(), "theirs");
            }
        }
    }
}
