use super::*;

fn cause(detail: &str) -> Cause {
    Cause {
        generation: 3,
        sequence: Cause::NO_SEQUENCE,
        kind: CauseKind::Mismatch,
        culprit: Cause::STORE,
        reporter: 7,
        detail: detail.into(),
    }
}

fn any_frame(random: &mut fastrand::Rng) -> Frame {
    let message = |random: &mut fastrand::Rng| {
        let length = if random.u8(..) == 0 { MESSAGE_LIMIT } else { random.usize(0..300) };
        (0..length).map(|_| random.u8(..)).collect::<Vec<u8>>()
    };
    let list = |random: &mut fastrand::Rng| (0..random.usize(0..20)).map(|_| random.u32(..)).collect();
    let cause = |random: &mut fastrand::Rng| Cause {
        generation: random.u32(..),
        sequence: random.u64(..),
        kind: CauseKind::from_wire(random.u8(1..=8)).unwrap(),
        culprit: random.u32(..) as usize,
        reporter: random.u32(..) as usize,
        detail: (0..random.usize(0..64)).map(|_| random.alphanumeric()).collect(),
    };
    match random.u8(0..14) {
        0 => Frame::Welcome {
            version: random.u16(..),
            heartbeat: random.u32(..),
            host_rank: random.bool().then(|| random.u32(..u32::MAX)),
        },
        1 => Frame::Refuse { reason: Refusal::from_wire(random.u8(1..=8)).unwrap(), text: "no".into() },
        2 => Frame::Contribute { round: random.u64(..), message: message(random) },
        3 => Frame::Part { round: random.u64(..), rank: random.u32(..), message: message(random) },
        4 => Frame::Query { round: random.u64(..) },
        5 => Frame::Missing { round: random.u64(..), absent: list(random), silent: list(random) },
        6 => Frame::Heartbeat,
        7 => Frame::Report(cause(random)),
        8 => Frame::Verdict(cause(random)),
        9 => Frame::Goodbye,
        10 => {
            let mut message = message(random);
            message.truncate(TELL_LIMIT);
            Frame::Tell { message }
        }
        11 => Frame::WhoIsLate { communicator: random.u32(..), sequence: random.u64(..) },
        12 => Frame::Late { communicator: random.u32(..), sequence: random.u64(..), ranks: list(random) },
        _ => Frame::HostLeft,
    }
}

#[test]
fn frames_round_trip_and_prefixes_wait() {
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..2_000 {
        let frame = any_frame(&mut random);
        let mut bytes = encode(&frame);
        assert!(bytes.len() <= FRAME_LIMIT);
        let short = random.usize(0..bytes.len());
        assert_eq!(decode(&bytes[..short]), Ok(None), "{short} bytes of {frame:?}");
        let length = bytes.len();
        bytes.extend_from_slice(b"what follows");
        assert_eq!(decode(&bytes), Ok(Some((frame, length))));
    }
}

#[test]
fn mutated_frames_never_panic_and_whatever_is_accepted_encodes_to_the_same_frame() {
    let mut random = fastrand::Rng::with_seed(2);
    let mut accepted = 0;
    for _ in 0..20_000 {
        let mut bytes = encode(&any_frame(&mut random));
        for _ in 0..random.usize(1..5) {
            let first = if random.bool() { 0 } else { HEADER.min(bytes.len() - 1) };
            let at = random.usize(first..bytes.len());
            bytes[at] = if random.bool() { random.u8(..) } else { bytes[at] ^ (1 << random.u8(0..8)) };
        }
        if random.u8(0..8) == 0 {
            bytes.truncate(random.usize(0..=bytes.len()));
        }
        if let Ok(Some((frame, length))) = decode(&bytes) {
            assert!(length <= bytes.len());
            assert_eq!(decode(&encode(&frame)).unwrap().unwrap().0, frame);
            accepted += 1;
        }
    }
    assert!(accepted > 1_000, "only {accepted} mutations were frames: the test looks at nothing");
}

#[test]
fn a_huge_length_is_refused_by_its_header_alone() {
    let mut bytes = encode(&Frame::Contribute { round: 0, message: vec![1] });
    bytes[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let refused = FrameError::TooLong { kind: 3, length: u32::MAX, limit: 8 + MESSAGE_LIMIT };
    assert_eq!(decode(&bytes[..HEADER]), Err(refused));
    let mut tell = encode(&Frame::Tell { message: vec![0; TELL_LIMIT] });
    assert_eq!(frame_length(&tell), Ok(Some(HEADER + TELL_LIMIT)));
    let length = TELL_LIMIT as u32 + 1;
    tell[..4].copy_from_slice(&length.to_le_bytes());
    assert_eq!(frame_length(&tell), Err(FrameError::TooLong { kind: 12, length, limit: TELL_LIMIT }));
    let mut heartbeat = encode(&Frame::Heartbeat);
    heartbeat[0] = 1;
    assert_eq!(frame_length(&heartbeat), Err(FrameError::TooLong { kind: 7, length: 1, limit: 0 }));
}

#[test]
fn unknown_kinds_and_wrong_bodies_are_errors() {
    assert_eq!(decode(&[0, 0, 0, 0, 99, 0, 0, 0]), Err(FrameError::UnknownKind(99)));
    assert_eq!(decode(&[1, 0, 0, 0, 5, 0, 0, 0, 1]), Err(FrameError::Malformed(5)));
    let mut missing = encode(&Frame::Missing { round: 1, absent: vec![1, 2], silent: vec![] });
    missing[16] = 255;
    assert_eq!(decode(&missing), Err(FrameError::Malformed(6)), "more ranks than bytes");
}

#[test]
fn long_details_are_cut_between_characters() {
    let long = "é".repeat(400);
    let bytes = encode(&Frame::Verdict(cause(&long)));
    let Ok(Some((Frame::Verdict(read), _))) = decode(&bytes) else { panic!("a verdict") };
    assert_eq!(read.detail.len(), Cause::DETAIL_LIMIT);
    assert!(long.starts_with(&read.detail));
    assert_eq!(Cause { detail: String::new(), ..read }, cause(""));
}
