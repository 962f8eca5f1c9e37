//! Generated text: words drawn by Zipf's law, in lines, the same for the same seed everywhere; and
//! a source of the lines of a text in memory.

#![allow(dead_code, reason = "each bench uses a part of it")]

use std::ops::Range;
use std::sync::Arc;

use sawmill::{Bytes, PartitionSource, RunContext};

/// Lines of a text in memory: each piece is a partition.
pub(crate) struct Text {
    pub(crate) bytes: Arc<Vec<u8>>,
    pub(crate) pieces: Vec<Range<usize>>,
}

/// The next line, with its newline, of a text that is not empty.
pub(crate) fn line(rest: &[u8]) -> &[u8] {
    &rest[..memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1)]
}

impl PartitionSource<Bytes> for Text {
    fn name(&self) -> &str {
        "text"
    }

    fn partitions(&self, _run: &RunContext) -> sawmill::Result<u32> {
        Ok(self.pieces.len() as u32)
    }

    fn read(
        &self,
        _run: &RunContext,
        partition: u32,
        out: &mut dyn FnMut(&[u8]),
    ) -> sawmill::Result<()> {
        let mut rest = &self.bytes[self.pieces[partition as usize].clone()];
        while !rest.is_empty() {
            let line = line(rest);
            out(line);
            rest = &rest[line.len()..];
        }
        Ok(())
    }

    fn describe(&self, _run: &RunContext, partition: u32) -> String {
        format!("bytes {:?}", self.pieces[partition as usize])
    }
}

/// A small generator of even 64-bit numbers (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// An even number in `0.0..1.0`.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// About `bytes` bytes of lines of 1 to 19 words out of `distinct`, the n-th of which is drawn
/// with a probability proportional to 1/n. Words have 2 to 13 letters; frequent ones are short.
pub(crate) fn zipf_text(seed: u64, bytes: usize, distinct: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let words: Vec<Vec<u8>> = (0..distinct)
        .map(|rank| {
            let shortest = 2 + usize::BITS as usize - rank.leading_zeros() as usize;
            let len = (shortest / 2 + (random.next() % 5) as usize).max(2);
            // The rank keeps words apart, the letters behind it give them their length.
            let mut word: Vec<u8> = Vec::new();
            let mut left = rank;
            while left > 0 || word.len() < len {
                let letter = if left > 0 { left % 26 } else { (random.next() % 26) as usize };
                word.push(b'a' + letter as u8);
                left /= 26;
            }
            word
        })
        .collect();
    let mut sums = Vec::with_capacity(distinct);
    let mut sum = 0.0;
    for rank in 1..=distinct {
        sum += 1.0 / rank as f64;
        sums.push(sum);
    }
    let mut text = Vec::with_capacity(bytes + 256);
    while text.len() < bytes {
        for at in 0..=random.next() % 19 {
            if at > 0 {
                text.push(b' ');
            }
            let drawn = random.unit() * sum;
            let rank = sums.partition_point(|&sum| sum < drawn).min(distinct - 1);
            text.extend_from_slice(&words[rank]);
        }
        text.push(b'\n');
    }
    text
}

/// Cuts text into `pieces` ranges that end behind a newline (or at the end).
pub(crate) fn cut_at_lines(text: &[u8], pieces: usize) -> Vec<Range<usize>> {
    let mut cuts = vec![0];
    for piece in 1..=pieces {
        let from = (text.len() * piece / pieces).max(cuts[piece - 1]);
        let rest = text[from..].iter().position(|&byte| byte == b'\n');
        cuts.push(rest.map_or(text.len(), |at| from + at + 1));
    }
    cuts.windows(2).map(|pair| pair[0]..pair[1]).collect()
}
