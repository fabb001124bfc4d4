//! Prints a hive as notatin sees it after its transaction logs: a judge of declone's replay.
//!
//! usage: replay-notatin HIVE [LOG]...
//!
//! One line a key (`K`, time, path) and a value (`V`, type, data as hex, name), in tree order; what
//! notatin says about logs on standard error.

use std::io::{BufWriter, Write};

use notatin::{err::Error, parser::ParserIterator, parser_builder::ParserBuilder};

fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let mut builder = ParserBuilder::from_path(args.next().unwrap_or_default());
    for log in args {
        builder.with_transaction_log(log);
    }
    let parser = builder.build()?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    for key in ParserIterator::new(&parser).iter() {
        let time = key.detail.last_key_written_date_and_time();
        writeln!(out, "K\t{time}\t{}", key.path.escape_default()).ok();
        for value in key.value_iter() {
            let data = value.detail.value_bytes().unwrap_or_default();
            let hex: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
            let name = value.detail.value_name();
            let kind = value.detail.data_type_raw();
            writeln!(out, "V\t{kind}\t{hex}\t{}", name.escape_default()).ok();
        }
    }
    out.flush().ok();
    eprintln!("{:#?}", parser.get_parse_logs());
    Ok(())
}
