//! How a group forms: a structure, and keys for all that there is.

use crate::context::Context;
use crate::error::{Fault, Result, rf_error, rf_status};
use crate::guard::{guarded, needed, put_text, quietly, text};
use crate::handle::Place;
use crate::log::{Caller, Log};
use crate::sized::{fill, initialise, sized};
use crate::types::rf_level;
use core::Config;
use core::config::keys::KEYS;
use std::ffi::{c_char, c_void};
use std::mem::MaybeUninit;
use std::sync::OnceLock;

/// Start from nothing, instead of from the process environment and its configuration file.
pub const RF_CONFIG_BARE: u32 = 1;

/// One thing that is set by its name, as it would stand in a configuration file: {"deadline", "90s"}.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct rf_setting {
    /// The key. rf_key lists them.
    pub key: *const c_char,
    /// The value, as text.
    pub value: *const c_char,
}

/// Gets a line of the log: its level, the module that tells it, and the text with its fields. Called on the caller's thread or on
/// one of the library's, several of which may call at once; not to block, and not to call this library.
pub type rf_log_fn = Option<
    unsafe extern "C" fn(context: *mut c_void, level: rf_level, target: *const c_char, text: *const c_char),
>;

/// Is told that a context is not used any more. On any thread; not to block, and not to call this library.
pub type rf_destroy_fn = Option<unsafe extern "C" fn(context: *mut c_void)>;

/// How a group forms. Made ready by RF_CONFIG_INIT or rf_config_init; what is not set afterwards is what the environment says, else
/// the default. What the fields say wins over the environment, and `settings` win over the fields.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct rf_config {
    /// sizeof(rf_config).
    pub size: u32,
    /// RF_CONFIG_BARE, or 0.
    pub flags: u32,
    /// This rank; -1: not set here.
    pub rank: i64,
    /// The number of ranks; -1: not set here.
    pub world_size: i64,
    /// Where the group meets: "host:port", where rank 0 listens, or "file:///directory" that all ranks share. NULL: not set here.
    pub store: *const c_char,
    /// How long an operation may take, in nanoseconds; 0: not set here.
    pub deadline_ns: i64,
    /// How long the forming of the group may take, in nanoseconds; 0: not set here.
    pub init_deadline_ns: i64,
    /// All that there is, by its name.
    pub settings: *const rf_setting,
    /// How many of them.
    pub settings_count: u64,
    /// What to log, such as "info" or "warn,ringfold::transport=debug"; NULL: "warn".
    pub log_filter: *const c_char,
    /// Gets the log of this communicator and of those split from it; NULL: nobody does.
    pub log: rf_log_fn,
    /// Handed to `log`.
    pub log_context: *mut c_void,
    /// Told when `log` is not called any more: after the communicator, those split from it and their threads have ended, or when
    /// no communicator came of it, unless `size` is wrong. NULL: nobody is told.
    pub log_destroy: rf_destroy_fn,
}

/// The most ranks that a group may have.
const MOST_RANKS: i64 = 1 << 20;

/// Fails for a number of ranks of which lists would not fit in memory.
pub(crate) fn most_ranks(what: &str, ranks: i64) -> Result<()> {
    if ranks <= MOST_RANKS {
        return Ok(());
    }
    Err(Fault::invalid(format!("{ranks} ranks in {what}; to do: use at most {MOST_RANKS}")))
}

/// A configuration as it was read.
pub(crate) struct Settings {
    pub(crate) config: Config,
    pub(crate) log: Option<Log>,
}

impl rf_config {
    const fn new() -> Self {
        rf_config {
            size: size_of::<rf_config>() as u32,
            flags: 0,
            rank: -1,
            world_size: -1,
            store: std::ptr::null(),
            deadline_ns: 0,
            init_deadline_ns: 0,
            settings: std::ptr::null(),
            settings_count: 0,
            log_filter: std::ptr::null(),
            log: None,
            log_context: std::ptr::null_mut(),
            log_destroy: None,
        }
    }

    /// What a caller's configuration says.
    ///
    /// # Safety
    /// It is NULL or initialised, and its pointers are as their descriptions say.
    pub(crate) unsafe fn read(config: *const rf_config) -> Result<Settings> {
        let mut room = MaybeUninit::uninit();
        // SAFETY: the caller's promise.
        let Some(given) = (unsafe { sized(config, &mut room) })? else {
            return Ok(Settings { config: Config::from_env()?, log: None });
        };
        // First this, so that its context is given back whatever comes.
        let known: &rf_config = given.known();
        let context = Context::new(known.log_context, known.log_destroy);
        let log = known.log.map(|tell| Caller::new(tell, context));
        // SAFETY: the caller's promise.
        unsafe { given.whole()?.settings(log) }
    }

    /// The same of one that is as large as this version's, with a log of its own.
    ///
    /// # Safety
    /// Its pointers are as their descriptions say.
    unsafe fn settings(&self, log: Option<Caller>) -> Result<Settings> {
        let given = self;
        if given.flags & !RF_CONFIG_BARE != 0 {
            return Err(Fault::unsupported(format!("the flags {:#x} of the configuration", given.flags)));
        }
        most_ranks("the configuration", given.world_size)?;
        let bare = given.flags & RF_CONFIG_BARE != 0;
        let mut read = if bare { Config::default() } else { Config::from_env()? };
        let mut set = |key: &str, value: &str| read.set(key, value);
        for (key, number) in [("rank", given.rank), ("world_size", given.world_size)] {
            match number {
                -1 => {}
                _ => set(key, &number.to_string())?,
            }
        }
        for (key, time) in [("deadline", given.deadline_ns), ("init_deadline", given.init_deadline_ns)] {
            match time {
                0 => {}
                ..0 => return Err(Fault::invalid(format!("{key}_ns is {time}"))),
                _ => set(key, &format!("{}.{:09}s", time / 1_000_000_000, time % 1_000_000_000))?,
            }
        }
        // SAFETY: the caller's promise.
        if let Some(store) = unsafe { text("store", given.store) }? {
            set("store", store)?;
        }
        if given.settings.is_null() && given.settings_count > 0 {
            return Err(Fault::invalid("the list of settings is NULL"));
        }
        for at in 0..given.settings_count as usize {
            // SAFETY: the caller says that there are so many.
            let rf_setting { key, value } = unsafe { *given.settings.add(at) };
            // SAFETY: texts, as described.
            let (key, value) =
                unsafe { (needed("the key of a setting", key)?, needed("the value of a setting", value)?) };
            set(key, value)?;
        }
        // SAFETY: the caller's promise.
        let filter = unsafe { text("log_filter", given.log_filter) }?.unwrap_or("warn");
        let log = log.map(|log| log.install(filter)).transpose()?;
        Ok(Settings { config: read, log })
    }
}

/// Makes an rf_config ready to be filled in. `size` is the caller's sizeof(rf_config); RF_INVALID_ARGUMENT where that cannot be.
///
/// # Safety
/// `config` is NULL, which is refused, or has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_config_init(config: *mut rf_config, size: u32) -> rf_status {
    // SAFETY: the caller's promise.
    unsafe { initialise(config, size, &rf_config::new()) }
}

/// What a configuration comes to for a key, as text, "" where nothing is set: as much as there is room for, and a zero. `*length`,
/// where that is not NULL, becomes how many bytes the whole takes with its zero.
///
/// # Safety
/// `config` is NULL or initialised; `key` ends with a zero; `room` is NULL or has room for `capacity` bytes; `length` is NULL or
/// can be written; `error` is NULL or an initialised rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_config_show(
    config: *const rf_config,
    key: *const c_char,
    room: *mut c_char,
    capacity: u64,
    length: *mut u64,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        let (nothing, mut copy) = (rf_config::new(), MaybeUninit::uninit());
        // SAFETY: the caller's promise.
        let given = unsafe { sized(config, &mut copy) }?.map_or(Ok(&nothing), |given| given.whole())?;
        // SAFETY: as above. Showing takes no context.
        let settings = unsafe { given.settings(None) }?;
        // SAFETY: as above.
        let name = unsafe { needed("the key", key) }?;
        let Some(key) = KEYS.iter().find(|known| known.name == name) else {
            return Err(Config::default().set(name, "?").expect_err("there is no such key").into());
        };
        // SAFETY: as above.
        let whole =
            unsafe { put_text(room, capacity as usize, &key.show(&settings.config).unwrap_or_default()) };
        // SAFETY: as above.
        if let Ok(length) = unsafe { Place::new("length", length) } {
            length.put(whole as u64);
        }
        Ok(())
    })
}

/// A key of the configuration. The texts live for ever.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct rf_key_info {
    /// sizeof(rf_key_info), set by the caller (RF_KEY_INIT) and left.
    pub size: u32,
    /// 0.
    pub reserved: u32,
    /// Its name in settings and in a file.
    pub name: *const c_char,
    /// Its name in the environment.
    pub environment: *const c_char,
    /// What holds where nobody says anything.
    pub default_value: *const c_char,
    /// What it is, and what may be given.
    pub meaning: *const c_char,
}

/// The keys by their number, from 0: fills in `*info` and returns RF_OK, or RF_INVALID_ARGUMENT behind the last.
///
/// # Safety
/// `info` can be written and has its size set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_key(index: u64, info: *mut rf_key_info) -> rf_status {
    /// Texts with a zero behind each, four to a key.
    static TEXTS: OnceLock<Vec<[String; 4]>> = OnceLock::new();
    guarded(std::ptr::null_mut(), || {
        let texts = TEXTS.get_or_init(|| {
            let all = KEYS.iter().map(|key| [key.name, key.environment, key.default, key.meaning]);
            all.map(|texts| texts.map(|text| format!("{text}\0"))).collect()
        });
        let texts = usize::try_from(index).ok().and_then(|index| texts.get(index));
        let [name, environment, default_value, meaning] = texts
            .ok_or_else(|| Fault::invalid("there are not so many keys"))?
            .each_ref()
            .map(|text| text.as_ptr().cast());
        let size = size_of::<rf_key_info>() as u32;
        // SAFETY: the caller's promise.
        unsafe { fill(info, &rf_key_info { size, reserved: 0, name, environment, default_value, meaning }) }
    })
}

/// The number of keys.
#[unsafe(no_mangle)]
pub extern "C" fn rf_key_count() -> u64 {
    quietly(0, || KEYS.len() as u64)
}
