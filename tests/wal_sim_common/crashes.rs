//! What a crash struck, and what it left: a campaign that meets too little proves too little.

use sawmill::sim::SimDisk;

use super::medium;
use super::world::{PLACE, World};

impl World {
    /// What stood there when the power went.
    pub(super) fn note_crash(&mut self) {
        self.counts.add("crashes");
        if self.disk.cut_in_flight() >= 2 {
            self.counts.add("crashes with 2 or more writes in flight");
        }
        if std::mem::take(&mut self.truncating) {
            self.counts.add("crashes in truncation");
        }
        let line = self.disk.cut_at();
        let opening = self.wal.is_none();
        // A durable write behind a segment's header is a frame; the only one of an opening is its
        // barrier.
        let frame = line.contains(".seg") && line.contains("durable") && !line.contains(".seg 0+");
        let place = if line.contains("rename") || line.contains("unlink") {
            "crashes in a rename or unlink"
        } else if line.contains("LOG ") && line.contains("write") {
            "crashes in a LOG slot"
        } else if line.contains("LOG") {
            "crashes in making LOG"
        } else if opening && frame {
            "crashes in a barrier"
        } else if frame {
            "crashes in a durable frame"
        } else if line.contains("durable") {
            "crashes in a segment's header"
        } else if line.contains("write") {
            "crashes in a plain write"
        } else if line.contains("sync") {
            "crashes in a sync"
        } else {
            "crashes elsewhere"
        };
        self.counts.add(place);
    }

    /// What the next opening will find.
    pub(super) fn note_medium(&mut self, found: &SimDisk) {
        let left = medium::look(found, PLACE);
        let seen = [
            (left.torn, "torn within a frame"),
            (left.behind_hole, "whole frames behind a hole"),
            (left.across_rotation, "a hole across a rotation"),
            (left.stale, "stale frames of the same epoch in a recycled segment"),
        ];
        for (seen, what) in seen {
            self.counts.add_many(what, u64::from(seen));
        }
        self.torn = left.torn || left.behind_hole;
    }
}
