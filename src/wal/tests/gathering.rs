//! One write for all who come back: whom a frame waits for, and for how long.

use std::collections::BTreeMap;
use std::time::Duration;

use super::patience::{block_on, give_slot, hold_slot};
use super::{PLACE, contents, disk, options, watched};
use crate::clock::{Clock, ManualClock, SystemClock};
use crate::error::Result;
use crate::ids::Lsn;
use crate::sim::{Device, SimDisk};
use crate::sync::{Arc, lock, spawn};
use crate::wal::{Background, Wal, WalOptions};

fn gathering(disk: &SimDisk, clock: Arc<dyn Clock>) -> Wal {
    let options = WalOptions { write_depth: Some(0), ..options(Background::Threads) };
    Wal::open_with(Arc::new(disk.clone()), clock, PLACE, options).unwrap()
}

fn append(wal: &Wal) -> crate::sync::JoinHandle<Result<Lsn>> {
    let wal = wal.clone();
    spawn("appender", move || wal.append(b"record")).unwrap()
}

fn through(appender: crate::sync::JoinHandle<Result<Lsn>>) {
    appender.join().unwrap().unwrap();
}

/// Until so many records have their place, and wait there, those of `appenders` among them.
fn until_staged(wal: &Wal, records: u64, appenders: &[crate::sync::JoinHandle<Result<Lsn>>]) {
    while wal.appended_lsn() < Lsn::new(records) || lock(&wal.core().open).queued().count() == 0 {
        let gone = appenders.iter().any(|appender| appender.is_finished());
        assert!(!gone, "somebody was written who had to be waited with");
        std::thread::yield_now();
    }
}

/// Has three callers share frames, again and again, until three are waited for.
fn company_of_three(wal: &Wal) -> u64 {
    let mut appended = 0;
    while lock(&wal.core().open).depth.gathers() < 3 {
        let slot = hold_slot(wal);
        let three = [append(wal), append(wal), append(wal)];
        appended += 3;
        until_staged(wal, appended, &three);
        give_slot(wal, slot);
        three.into_iter().for_each(through);
        assert!(appended < 300);
    }
    appended
}

#[test]
fn a_frame_waits_for_its_company_and_no_longer_than_it_is_patient() {
    watched(|| {
        let clock = Arc::new(ManualClock::default());
        let wal = gathering(&disk(90, Device::Fua), Arc::clone(&clock) as Arc<dyn Clock>);
        let appended = company_of_three(&wal);
        // All of them come: time stands still.
        let three = [append(&wal), append(&wal), append(&wal)];
        three.into_iter().for_each(through);
        let frames = wal.stats().frames;
        // One stays away.
        let two = [append(&wal), append(&wal)];
        until_staged(&wal, appended + 5, &two);
        assert_eq!(wal.stats().frames, frames, "nothing is written");
        clock.advance(Duration::from_secs(1));
        two.into_iter().for_each(through);
        assert_eq!(wal.stats().frames, frames + 1);
        // Two are waited for from now on; and who submits and syncs waits for nobody.
        let two = [append(&wal), append(&wal)];
        two.into_iter().for_each(through);
        let held = [append(&wal)];
        until_staged(&wal, appended + 8, &held);
        wal.submit(b"beside").unwrap();
        wal.sync().unwrap();
        held.into_iter().for_each(through);
        assert_eq!(contents(&wal).unwrap().len() as u64, appended + 9);
    });
}

#[test]
fn closing_and_futures_do_not_wait_for_company() {
    watched(|| {
        let disk = disk(91, Device::Fua);
        let wal = gathering(&disk, Arc::new(ManualClock::default()));
        let appended = company_of_three(&wal);
        // Nobody sleeps who would look after it.
        block_on(wal.submit(b"submitted").unwrap()).unwrap();
        let held = [append(&wal)];
        until_staged(&wal, appended + 2, &held);
        wal.clone().close().unwrap();
        held.into_iter().for_each(through);
        let wal = super::open(&disk, Background::Inline).unwrap();
        assert_eq!(contents(&wal).unwrap().len() as u64, appended + 2);
    });
}

#[test]
fn whoever_stays_away_everybody_gets_through() {
    watched(|| {
        let wal = gathering(&disk(92, Device::Fua), Arc::new(SystemClock));
        let workers: Vec<_> = (1..=6u8)
            .map(|thread| {
                let wal = wal.clone();
                let body = move || {
                    let append = |number: u8| (wal.append(&[thread, number]).unwrap(), number);
                    (0..30 * thread).map(append).collect::<Vec<_>>()
                };
                (thread, spawn("appender", body).unwrap())
            })
            .collect();
        let mut expected = BTreeMap::new();
        for (thread, worker) in workers {
            let mine = worker.join().unwrap();
            expected.extend(mine.into_iter().map(|(lsn, number)| (lsn, vec![thread, number])));
        }
        let found: BTreeMap<_, _> = contents(&wal).unwrap().into_iter().collect();
        assert_eq!(expected.len(), 30 * 21);
        assert_eq!(found, expected);
    });
}
