//! A bootstrap that the caller brings.

use crate::config::{most_ranks, rf_destroy_fn};
use crate::context::Context;
use crate::error::{Fault, RF_INVALID_ARGUMENT, RF_OK, Result, rf_status};
use crate::guard::quietly;
use crate::log::unheard;
use crate::sized::{initialise, reserved, sized};
use core::error::{Error, ErrorKind};
use core::transport::Exchange;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Takes an answer: the message of a rank. The bytes are copied before it returns. It may be called on any thread, in any order
/// of ranks, once for each rank, and only before the all-gather that it was handed to has returned: a call after that returns
/// RF_INVALID_ARGUMENT as long as rf_comm_create_by has not returned, and is undefined later. With rank -1 the bytes
/// are text: why the all-gather is about to fail.
pub type rf_sink_fn = Option<
    unsafe extern "C" fn(sink: *mut c_void, rank: i64, bytes: *const c_void, length: u64) -> rf_status,
>;

/// Gathers the messages of all ranks, this one's own among them, and gives each to `take`. Blocks until all ranks have called it,
/// at most `timeout_ns`. Returns 0, or another number of its own where it fails, which the error tells.
pub type rf_all_gather_fn = Option<
    unsafe extern "C" fn(
        context: *mut c_void,
        message: *const c_void,
        length: u64,
        timeout_ns: i64,
        take: rf_sink_fn,
        sink: *mut c_void,
    ) -> i32,
>;

/// An all-gather of small byte strings (at most 64 KiB) among the ranks of a group that is being formed: all that ringfold needs
/// to form it. `all_gather` is called on the thread that is in rf_comm_create_by, at most twice, while it is there.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct rf_exchange {
    /// sizeof(rf_exchange), set by the caller (RF_EXCHANGE_INIT, or rf_exchange_init).
    pub size: u32,
    /// 0.
    pub reserved: u32,
    /// This rank.
    pub rank: i64,
    /// The number of ranks.
    pub world_size: i64,
    /// The all-gather.
    pub all_gather: rf_all_gather_fn,
    /// Handed to it.
    pub context: *mut c_void,
    /// Told when it is not used any more, once, before rf_comm_create_by returns; also where that fails, unless `size` is wrong.
    /// NULL: nobody is told.
    pub destroy: rf_destroy_fn,
}

/// A caller's exchange.
pub(crate) struct Brought {
    given: rf_exchange,
    context: Context,
    rank: usize,
    world: usize,
    /// Where answers come, one after another: kept to the end, so that late ones find something.
    #[expect(clippy::vec_box, reason = "their addresses have been handed out")]
    sinks: Vec<Box<Sink>>,
}

impl rf_exchange {
    const fn new() -> Self {
        rf_exchange {
            size: size_of::<rf_exchange>() as u32,
            reserved: 0,
            rank: -1,
            world_size: -1,
            all_gather: None,
            context: std::ptr::null_mut(),
            destroy: None,
        }
    }

    /// Takes what a caller brings.
    ///
    /// # Safety
    /// It is NULL or initialised, and its function and context can be used together.
    pub(crate) unsafe fn take(exchange: *const rf_exchange) -> Result<Brought> {
        let mut room = MaybeUninit::uninit();
        // SAFETY: the caller's promise.
        let all = unsafe { sized(exchange, &mut room) }?;
        let all = all.ok_or_else(|| Fault::invalid("the exchange is NULL"))?;
        let given: rf_exchange = *all.known();
        let mut brought = Brought {
            given,
            context: Context::new(given.context, given.destroy),
            rank: 0,
            world: 0,
            sinks: Vec::new(),
        };
        all.whole()?;
        let number = |what: &str, number: i64| {
            usize::try_from(number).map_err(|_| Fault::invalid(format!("the exchange's {what} is {number}")))
        };
        (brought.rank, brought.world) =
            (number("rank", given.rank)?, number("number of ranks", given.world_size)?);
        most_ranks("the exchange", given.world_size)?;
        reserved("the exchange", given.reserved)?;
        if given.all_gather.is_none() {
            return Err(Fault::invalid("the exchange has no all_gather"));
        }
        Ok(brought)
    }
}

/// Makes an rf_exchange ready to be filled in. `size` is the caller's sizeof(rf_exchange); RF_INVALID_ARGUMENT where that cannot
/// be.
///
/// # Safety
/// `exchange` is NULL, which is refused, or has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_exchange_init(exchange: *mut rf_exchange, size: u32) -> rf_status {
    // SAFETY: the caller's promise.
    unsafe { initialise(exchange, size, &rf_exchange::new()) }
}

#[derive(Default)]
struct Sink(Mutex<Answers>);

#[derive(Default)]
struct Answers {
    /// Nothing where no answers are taken any more.
    messages: Option<Vec<Option<Vec<u8>>>>,
    /// Why it failed, or what was wrong with the answers.
    why: Option<String>,
}

/// The longest message that an exchange has to carry.
const LONGEST: u64 = 64 << 10;

unsafe extern "C" fn take(sink: *mut c_void, rank: i64, bytes: *const c_void, length: u64) -> rf_status {
    quietly(RF_INVALID_ARGUMENT, || {
        // SAFETY: it is the sink that was handed over with this function, which lives until the exchange is over.
        let Some(sink) = (unsafe { sink.cast::<Sink>().as_ref() }) else { return RF_INVALID_ARGUMENT };
        let mut answers = sink.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: &[u8] = match (bytes.is_null(), length) {
            (_, 0) => &[],
            (true, _) => return RF_INVALID_ARGUMENT,
            (_, LONGEST..) if length > LONGEST => return RF_INVALID_ARGUMENT,
            // SAFETY: the caller says that there are so many.
            _ => unsafe { std::slice::from_raw_parts(bytes.cast(), length as usize) },
        };
        if rank == -1 {
            answers.why = Some(String::from_utf8_lossy(bytes).into_owned());
            return RF_OK;
        }
        let place = usize::try_from(rank).ok().and_then(|rank| answers.messages.as_mut()?.get_mut(rank));
        match place {
            Some(place @ None) => {
                *place = Some(bytes.to_vec());
                RF_OK
            }
            _ => {
                answers.why.get_or_insert_with(|| {
                    format!("it gave an answer for rank {rank} twice, or for a rank that is none")
                });
                RF_INVALID_ARGUMENT
            }
        }
    })
}

impl Exchange for Brought {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn all_gather(&mut self, message: &[u8], timeout: Duration) -> core::Result<Vec<Vec<u8>>> {
        let fault = |text: String| {
            Error::new(ErrorKind::Bootstrap, format!("the caller's all-gather {text}")).at_rank(self.rank)
        };
        let Some(all_gather) = self.given.all_gather else { return Err(fault("is NULL".into())) };
        let answers = Answers { messages: Some(vec![None; self.world]), why: None };
        self.sinks.push(Box::new(Sink(Mutex::new(answers))));
        let sink = &**self.sinks.last().expect("it was put there");
        let timeout = i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX);
        // SAFETY: the message and the sink live until it returns, and the function is called on this thread with the context that
        // it was given with.
        let code = unheard(|| unsafe {
            all_gather(
                self.context.pointer(),
                message.as_ptr().cast(),
                message.len() as u64,
                timeout,
                Some(take),
                std::ptr::from_ref(sink).cast_mut().cast(),
            )
        });
        let mut answers = sink.0.lock().unwrap_or_else(PoisonError::into_inner);
        let messages = answers.messages.take().expect("nobody else takes them");
        let why = answers.why.take();
        drop(answers);
        match (code, why) {
            (0, None) => {}
            (0, Some(why)) => return Err(fault(format!("went wrong: {why}"))),
            (_, None) => return Err(fault(format!("failed with {code}"))),
            (_, Some(why)) => return Err(fault(format!("failed with {code}: {why}"))),
        }
        if let Some(missing) = messages.iter().position(Option::is_none) {
            return Err(fault(format!("gave no answer for rank {missing}")).blame(missing));
        }
        let messages: Vec<Vec<u8>> = messages.into_iter().flatten().collect();
        if messages.get(self.rank).is_some_and(|own| own != message) {
            return Err(fault(format!(
                "gave rank {} another message than its own: are the answers given by rank?",
                self.rank
            )));
        }
        Ok(messages)
    }
}
