//! `sawmill state`: an operator's state as the newest checkpoint has it, writing nothing.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use sawmill::{Engine, StoredState};
use serde_json::json;

use crate::out::{self, say};
use crate::{Failure, Outcome};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the value of one key. Exit code 1: there is no such key.
    Get(Get),
    /// Print every key and its value, as `<key><TAB><value>`.
    Dump(Arguments),
}

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The engine's directory. A job may run in it meanwhile.
    directory: PathBuf,
    /// The operator's name.
    operator: String,
    /// What the values are: their type is not stored.
    #[arg(long, value_enum, default_value_t = Values::Hex)]
    values: Values,
    /// Print one JSON object for each key.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    #[command(flatten)]
    common: Arguments,
    /// The key: text, or canonical bytes as `0x` and hex.
    key: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Values {
    /// The bytes, as postcard wrote them.
    Hex,
    /// Unsigned integers.
    U64,
    /// Signed integers.
    I64,
    /// Floating-point numbers of 64 bits.
    F64,
    /// Strings.
    Text,
}

pub(crate) fn run(command: &Command) -> Outcome {
    match command {
        Command::Get(get) => self::get(get),
        Command::Dump(arguments) => dump(arguments),
    }
}

fn get(get: &Get) -> Outcome {
    let state = Engine::stored_state(&get.common.directory, &get.common.operator)?;
    let key = match get.key.strip_prefix("0x") {
        Some(digits) => from_hex(digits)?,
        None => get.key.clone().into_bytes(),
    };
    let Some(value) = state.get(&key)? else {
        out::complain(format_args!("there is no such key in checkpoint {}", state.checkpoint));
        return Ok(1);
    };
    let value = get.common.values.show(&value)?;
    if get.common.json {
        let StoredState { checkpoint, batch, .. } = &state;
        let batch = batch.get();
        let object = json!({ "checkpoint": checkpoint, "batch": batch, "value": value });
        say!("{object}");
    } else {
        say!("{value}");
    }
    Ok(0)
}

fn dump(arguments: &Arguments) -> Outcome {
    let state = Engine::stored_state(&arguments.directory, &arguments.operator)?;
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let printed = state.for_each::<Failure>(|partition, key, value| {
        let (key, value) = (shown(key), arguments.values.show(value)?);
        if arguments.json {
            let object = json!({ "partition": partition, "key": key, "value": value });
            writeln!(out, "{object}")?;
        } else {
            writeln!(out, "{key}\t{value}")?;
        }
        Ok(())
    });
    printed.and_then(|()| Ok(out.flush()?)).map(|()| 0)
}

/// Printable text as it is, anything else as hex.
fn shown(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) if !text.starts_with("0x") && !text.chars().any(char::is_control) => {
            text.to_owned()
        }
        _ => to_hex(key),
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |mut text, byte| {
        #[allow(clippy::expect_used, reason = "a String takes everything")]
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

fn from_hex(digits: &str) -> Result<Vec<u8>, Failure> {
    let bytes = digits.as_bytes();
    if !bytes.len().is_multiple_of(2) || !bytes.iter().all(u8::is_ascii_hexdigit) {
        return Err(format!("`{digits}` is not pairs of hex digits").into());
    }
    let pair = |pair: &[u8]| u8::from_str_radix(&String::from_utf8_lossy(pair), 16);
    Ok(bytes.chunks(2).map(pair).collect::<Result<_, _>>()?)
}

impl Values {
    /// The text of a value of this type, which nothing follows.
    fn show(self, bytes: &[u8]) -> Result<String, Failure> {
        fn taken<T: serde::de::DeserializeOwned + ToString>(bytes: &[u8]) -> Option<String> {
            let (value, rest) = postcard::take_from_bytes::<T>(bytes).ok()?;
            rest.is_empty().then(|| value.to_string())
        }
        let shown = match self {
            Values::Hex => Some(to_hex(bytes)),
            Values::U64 => taken::<u64>(bytes),
            Values::I64 => taken::<i64>(bytes),
            Values::F64 => taken::<f64>(bytes),
            Values::Text => taken::<String>(bytes),
        };
        shown.ok_or_else(|| format!("{} is not a value of that type", to_hex(bytes)).into())
    }
}
