//! Receipts say how a record was really made durable.

use crate::common::{options, simulated};
use sawmill::sim::{FaultKind, SimDisk};
use sawmill::{
    Durability, Entry, ErrorKind, Lsn, ProducerId, ProducerStamp, Receipt, Safeguard, Wal,
};

/// The frame at the receipt's position holds its record, among as many as it says.
fn check(bytes: impl Fn(&str) -> Vec<u8>, receipt: &Receipt) {
    let file = bytes(&format!("{:020}.seg", receipt.position.segment.get()));
    let frame = &file[usize::try_from(receipt.position.offset).unwrap()..];
    assert_eq!(&frame[..4], b"FRAM");
    let first = u64::from_le_bytes(frame[56..64].try_into().unwrap());
    let count = u64::from(u32::from_le_bytes(frame[80..84].try_into().unwrap()));
    let payload = u64::from(u32::from_le_bytes(frame[84..88].try_into().unwrap()));
    assert!((first..first + count).contains(&receipt.lsn.get()), "{receipt:?}");
    assert_eq!(receipt.group, count);
    assert_eq!(receipt.frame_bytes, (128 + payload).next_multiple_of(4096));
}

#[test]
fn a_receipt_names_the_frame_and_what_made_it_durable() {
    let disk = SimDisk::new(1);
    let wal = simulated(&disk).unwrap();
    let lone = wal.append_for_receipt(&Entry::new(b"lone").key(b"k")).unwrap();
    // The second does not fit the first one's frame, which is therefore written plain.
    let plain = wal.submit_for_receipt(&Entry::new(&[1; 3000])).unwrap();
    let beside = wal.submit_for_receipt(&Entry::new(b"beside")).unwrap();
    wal.submit(&[2; 31_000]).unwrap();
    wal.sync().unwrap();
    let (plain, beside) = (plain.wait().unwrap(), beside.wait().unwrap());
    let kernel = Entry::new(b"buffered").durability(Durability::Buffered);
    let kernel = wal.append_for_receipt(&kernel).unwrap();
    let bytes = |name: &str| disk.read_file(format!("/log/{name}")).unwrap();
    for receipt in [&lone, &plain, &beside, &kernel] {
        check(bytes, receipt);
        assert_eq!(receipt.backend, wal.backend());
    }
    assert_eq!((lone.safeguard, lone.group), (Safeguard::DurableWrite, 1));
    assert_eq!((plain.safeguard, plain.group), (Safeguard::Sync, 2));
    assert_eq!((beside.position, beside.lsn), (plain.position, plain.lsn.next()));
    assert_eq!(kernel.safeguard, Safeguard::Kernel);
    assert!(wal.durable_lsn() < kernel.lsn);
}

#[test]
fn receipts_of_many_threads_share_frames() {
    let place = tempfile::tempdir().unwrap();
    let wal = Wal::open(place.path(), options()).unwrap();
    let receipts: Vec<Receipt> = std::thread::scope(|scope| {
        let append = || -> Vec<Receipt> {
            let receipt = |_| wal.append_for_receipt(&Entry::new(&[7; 500])).unwrap();
            (0..40).map(receipt).collect()
        };
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(append)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let bytes = |name: &str| std::fs::read(place.path().join(name)).unwrap();
    for receipt in &receipts {
        check(bytes, receipt);
        let others = receipts.iter().filter(|other| other.position == receipt.position).count();
        assert_eq!(others as u64, receipt.group, "everybody of a frame has its receipt");
        assert_eq!(receipt.safeguard, Safeguard::DurableWrite);
    }
}

#[test]
fn what_has_no_receipt() {
    let disk = SimDisk::new(2);
    let wal = simulated(&disk).unwrap();
    let stamp = ProducerStamp { id: ProducerId::new(1), epoch: 0, sequence: 0 };
    let refused = wal.append_for_receipt(&Entry::new(b"").producer(stamp));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid);
    let refused = wal.append_for_receipt(&Entry::new(b"").key(&[0; 20_000]));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(wal.appended_lsn(), Lsn::ZERO);
    drop(wal.submit_for_receipt(&Entry::new(b"never asked for")).unwrap());
    let pending = wal.submit_for_receipt(&Entry::new(b"lost")).unwrap();
    disk.fail_from(disk.ops() + 1, 5, FaultKind::NotExecuted);
    let failed = wal.append_for_receipt(&Entry::new(b"failed"));
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(pending.wait().unwrap_err().kind(), ErrorKind::Poisoned);
}
