//! The `declone` program: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    // A second witness (nt-hive, ntfs) may panic on odd input; that is caught and reported as an
    // abstention, and must not print a backtrace in between.
    std::panic::set_hook(Box::new(|_| {}));
    declone::device::give_memory_back();
    let code = declone::cli::run(std::env::args_os(), &mut std::io::stdout());
    declone::apply::interrupt::end_of_work(code);
    ExitCode::from(code)
}
