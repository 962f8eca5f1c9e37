//! Whether a change made anything slower, on the machine at hand: the main paths, kept by criterion
//! from one run to the next.
//!
//! `cargo bench --bench regression -- --save-baseline before`, then, with the change,
//! `cargo bench --bench regression -- --baseline before`; a group's name picks it. The other
//! benches compare with somebody else in turns; this one compares with the past, so both runs want
//! a quiet machine.

#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a bench measures real time")]

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sawmill::{
    Bytes, Dataset, Engine, EngineOptions, Executor, Job, Lost, Received, RunOptions, StorageLevel,
    Trigger, Wal, WalOptions, name,
};

const ROWS: u64 = 1 << 18;
const PARTITIONS: u32 = 16;

/// On the disk that the build is on: never in memory by chance.
fn place() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn wal_append(c: &mut Criterion) {
    let place = place();
    let options = WalOptions { retain_bytes: Some(64 << 20), ..WalOptions::default() };
    let wal = Wal::open(place.path(), options).unwrap();
    let mut group = c.benchmark_group("wal_append");
    group.throughput(Throughput::Elements(1)).measurement_time(Duration::from_secs(3));
    for writers in [1, 8, 64] {
        let append = |count: u64| {
            let begun = Instant::now();
            thread::scope(|scope| {
                for writer in 0..writers {
                    let (wal, count) = (&wal, (count + writer) / writers);
                    let append = move || {
                        (0..count).for_each(|_| _ = wal.append(&[7; 1024]).unwrap());
                    };
                    scope.spawn(append);
                }
            });
            begun.elapsed()
        };
        group.bench_function(format!("{writers}_writers"), |b| b.iter_custom(append));
    }
    group.finish();
    wal.close().unwrap();
}

fn replay(c: &mut Criterion) {
    let place = place();
    let wal = Wal::open(place.path(), WalOptions::default()).unwrap();
    (0..ROWS).for_each(|_| drop(wal.submit(&[7; 128]).unwrap()));
    wal.sync().unwrap();
    let mut group = c.benchmark_group("replay");
    group.throughput(Throughput::Elements(ROWS)).sample_size(20);
    group.bench_function("128_bytes", |b| {
        b.iter(|| {
            let (mut replay, mut seen) = (wal.replay().unwrap(), 0);
            while let Some(record) = replay.next() {
                seen += u64::from(record.unwrap().payload[0]);
            }
            assert_eq!(seen, 7 * ROWS);
        });
    });
    group.finish();
    wal.close().unwrap();
}

/// Numbers that follow no order.
fn mixed(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
}

fn exec(c: &mut Criterion) {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let executor = Executor::new(threads, PARTITIONS).unwrap();
    let numbers = Dataset::from_fn(PARTITIONS, |partition| {
        let cut = |partition: u32| u64::from(partition) * ROWS / u64::from(PARTITIONS);
        (cut(partition)..cut(partition + 1)).map(mixed)
    });
    let pairs = numbers.map_to_pair(|n| (n % 10_000, n));
    let table = Dataset::from_vec((0..10_000_u64).collect(), PARTITIONS);
    let table = table.map_to_pair(|n| (n, mixed(n)));
    let sums = pairs.reduce_by_key(u64::wrapping_add);
    let joined = pairs.join(&table);
    let sorted = pairs.sort_by_key();
    let kept = numbers.map(mixed).filter(|n| n % 3 > 0);
    let mut group = c.benchmark_group("exec");
    group.throughput(Throughput::Elements(ROWS)).sample_size(20);
    group.bench_function("map_filter", |b| b.iter(|| kept.count(&executor).unwrap()));
    group.bench_function("reduce_by_key", |b| b.iter(|| sums.count(&executor).unwrap()));
    group.bench_function("join", |b| b.iter(|| joined.count(&executor).unwrap()));
    group.bench_function("sort_by_key", |b| b.iter(|| sorted.count(&executor).unwrap()));
    group.finish();

    let held = numbers.map(mixed).persist(StorageLevel::Memory);
    let run = executor.context();
    let whole = executor.count(&run, &held).unwrap();
    let mut group = c.benchmark_group("recompute");
    group.throughput(Throughput::Elements(ROWS / u64::from(PARTITIONS)));
    group.bench_function(BenchmarkId::new("lost_partition", PARTITIONS), |b| {
        b.iter_batched(
            || run.drop_partition(held.operator(), Lost::Partition(3)),
            |_| assert_eq!(executor.count(&run, &held).unwrap(), whole),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// Records through a job with state, in batches, to its end, with the last checkpoint.
fn end_to_end(c: &mut Criterion) {
    let place = place();
    let engine = Engine::open(place.path(), EngineOptions::default()).unwrap();
    let words = engine.ingest(name!("words")).unwrap();
    let mut group = c.benchmark_group("end_to_end");
    group.throughput(Throughput::Elements(ROWS)).sample_size(10);
    group.bench_function("counted_words", |b| {
        let fill = || {
            let word = |n: u64| format!("word-{}", mixed(n) % 5_000);
            (0..ROWS).for_each(|n| drop(words.submit(word(n).as_bytes()).unwrap()));
            engine.log().sync().unwrap();
        };
        let run = |()| {
            let (job, _totals) = Job::build(name!("count"), |job| {
                let rows = job.source(name!("in"), Received::from(&words));
                let ones = rows.flat_map_rows::<Bytes>(|row, out| out.push(row)).pair_with(|_| 1);
                let counts = ones.reduce_by_key(|a, b| a + b);
                counts.map_with_state::<u64, ()>(name!("totals"), |_, counts, total| {
                    *total = Some(total.unwrap_or(0) + counts.sum::<u64>());
                    None
                })
            })
            .unwrap();
            let trigger = Trigger::AvailableNow { bytes: 1 << 20 };
            let options = RunOptions { trigger, ..RunOptions::default() };
            let done = engine.start(job, options).unwrap().await_termination().unwrap();
            black_box(done.batches)
        };
        b.iter_batched(fill, run, BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, wal_append, replay, exec, end_to_end);
criterion_main!(benches);
