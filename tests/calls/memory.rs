//! Memory with guards on both sides, at any alignment.

/// Bytes before and after the content that nobody may touch.
const GUARD: usize = 32;

/// What the guards hold.
const PATTERN: u8 = 0xa5;

/// Bytes at an address `offset` bytes off an alignment of 8, between guards. The address stays when this moves.
#[derive(Debug, Clone)]
pub struct Memory {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Memory {
    pub fn new(content: &[u8], offset: usize) -> Self {
        let mut bytes = vec![PATTERN; content.len() + 2 * GUARD + 16];
        let start = GUARD + bytes[GUARD..].as_ptr().align_offset(8) + offset % 8;
        bytes[start..start + content.len()].copy_from_slice(content);
        Memory { bytes, start, len: content.len() }
    }

    /// Content of this many bytes that look like anything.
    pub fn noise(len: usize, offset: usize) -> Self {
        let content: Vec<u8> = (0..len).map(|i| (i * 7 + 3) as u8).collect();
        Memory::new(&content, offset)
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn pointer(&mut self) -> *mut u8 {
        self.bytes[self.start..].as_mut_ptr()
    }

    pub fn content(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    pub fn content_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }

    /// Changes the byte before (0) or after (1) the content.
    pub fn spoil_guard(&mut self, side: usize) {
        self.bytes[if side == 0 { self.start - 1 } else { self.start + self.len }] ^= 1;
    }

    pub fn guards_intact(&self) -> bool {
        let (before, rest) = self.bytes.split_at(self.start);
        before.iter().chain(&rest[self.len..]).all(|&byte| byte == PATTERN)
    }
}
