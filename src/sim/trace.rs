//! The last operations, as text for failure messages.

use std::collections::VecDeque;

/// A ring of lines.
#[derive(Debug)]
pub(super) struct Trace {
    lines: VecDeque<String>,
    limit: usize,
}

impl Trace {
    pub(super) fn new(limit: usize) -> Trace {
        Trace { lines: VecDeque::new(), limit }
    }

    pub(super) fn push(&mut self, line: String) {
        if self.limit == 0 {
            return;
        }
        if self.lines.len() == self.limit {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// Adds to the last line.
    pub(super) fn remark(&mut self, text: &str) {
        if let Some(line) = self.lines.back_mut() {
            line.push_str(text);
        }
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for line in &self.lines {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}
