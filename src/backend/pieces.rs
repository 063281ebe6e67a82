//! The memory of a batch: many tensors that an operation takes as one, from the first byte of the first to the last
//! byte of the last.

/// One tensor of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    /// Read.
    pub input: *const u8,
    /// Written; the same memory as `input`, or apart from it.
    pub output: *mut u8,
    /// How long each of them is.
    pub bytes: usize,
}

/// The tensors of a batch, in order. Cleared and filled again, it allocates nothing.
#[derive(Debug, Default)]
pub struct Pieces {
    /// Each with the place of its first byte in the whole; none is empty.
    list: Vec<(usize, Piece)>,
    bytes: usize,
    layout: u64,
}

// SAFETY: addresses, which whoever makes an operation of them vouches for from whichever thread drives it; see
// `Operation::in_pieces`.
unsafe impl Send for Pieces {}
// SAFETY: shared, it is only read, and what it points to is not touched by it.
unsafe impl Sync for Pieces {}

impl Pieces {
    /// Forgets all pieces.
    pub fn clear(&mut self) {
        self.list.clear();
        (self.bytes, self.layout) = (0, 0);
    }

    /// Adds a piece at the end.
    pub fn push(&mut self, piece: Piece) {
        self.layout = (self.layout.rotate_left(23) ^ piece.bytes as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        if piece.bytes > 0 {
            self.list.push((self.bytes, piece));
            self.bytes += piece.bytes;
        }
    }

    /// How long they are together.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A hash of the lengths, by which ranks tell that they have cut one total differently.
    pub fn layout(&self) -> u64 {
        self.layout
    }

    /// Each piece, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Piece> {
        self.list.iter().map(|(_, piece)| piece)
    }

    /// The piece that holds a byte of the whole, and the byte's place in it. There must be one.
    pub(super) fn find(&self, byte: usize) -> (&Piece, usize) {
        let index = self.list.partition_point(|(start, _)| *start <= byte) - 1;
        let (start, piece) = &self.list[index];
        (piece, byte - start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(lengths: &[usize]) -> Pieces {
        let mut pieces = Pieces::default();
        for &bytes in lengths {
            pieces.push(Piece { input: std::ptr::null(), output: std::ptr::null_mut(), bytes });
        }
        pieces
    }

    #[test]
    fn every_byte_is_found_and_empty_pieces_are_never() {
        let pieces = pieces(&[0, 3, 0, 0, 1, 5, 0]);
        assert_eq!(pieces.bytes(), 9);
        let found: Vec<(usize, usize)> = (0..9)
            .map(|byte| {
                let (piece, at) = pieces.find(byte);
                (piece.bytes, at)
            })
            .collect();
        assert_eq!(found, [(3, 0), (3, 1), (3, 2), (1, 0), (5, 0), (5, 1), (5, 2), (5, 3), (5, 4)]);
    }

    #[test]
    fn one_total_cut_differently_is_another_layout() {
        assert_ne!(pieces(&[4, 8]).layout(), pieces(&[8, 4]).layout());
        assert_ne!(pieces(&[4, 0]).layout(), pieces(&[4]).layout());
        let mut again = pieces(&[1, 2]);
        again.clear();
        again.push(Piece { input: std::ptr::null(), output: std::ptr::null_mut(), bytes: 4 });
        assert_eq!(again.layout(), pieces(&[4]).layout());
    }
}
