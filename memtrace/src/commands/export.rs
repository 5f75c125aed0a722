//! `memtrace export`: a recording in the format of another tool.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::fs::MetadataExt,
    path::Path,
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use memtrace::{
    cli::{ExportArgs, ExportFormat},
    export::{FoldedStacks, SvgError, write_folded, write_svg},
    profile::Profile,
    report::Metric,
};

use super::{read_profile, to_stdout};

pub(super) fn run(args: &ExportArgs) -> Result<ExitCode> {
    let profile = read_profile(&args.file)?;
    let metric = Metric::from(args.metric);
    let stacks = FoldedStacks::new(&profile, metric);
    if stacks.is_empty() {
        note_empty(args);
    }
    match &args.output {
        None => to_stdout(|out| write(args.format, &profile, metric, &stacks, out))?,
        Some(path) => {
            refuse_input(&args.file, path)?;
            to_file(path, |out| write(args.format, &profile, metric, &stacks, out))
                .with_context(|| format!("cannot write '{}'", path.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write(
    format: ExportFormat,
    profile: &Profile,
    metric: Metric,
    stacks: &FoldedStacks,
    out: &mut impl Write,
) -> Result<()> {
    match format {
        ExportFormat::Folded => write_folded(stacks, out)?,
        ExportFormat::Svg => match write_svg(profile, metric, stacks, out) {
            // As itself, so that a closed pipe is known as one.
            Err(SvgError::Io(error)) => return Err(error.into()),
            result => result?,
        },
    }
    Ok(())
}

/// An empty result is no failure, but nobody should have to wonder.
fn note_empty(args: &ExportArgs) {
    let metric = Metric::from(args.metric);
    // Standard error may be gone; that is no reason to fail.
    let _ = writeln!(
        io::stderr(),
        "memtrace: no {} of metric '{}' in '{}': nothing to draw",
        metric.unit(),
        metric.name(),
        args.file.display()
    );
}

/// `-o` with the recording's own name would destroy it.
fn refuse_input(input: &Path, output: &Path) -> Result<()> {
    if let (Ok(input), Ok(output)) = (fs::metadata(input), fs::metadata(output))
        && (input.dev(), input.ino()) == (output.dev(), output.ino())
    {
        bail!("the output is the recording itself; choose another name for -o");
    }
    Ok(())
}

fn to_file<W>(path: &Path, write: W) -> Result<()>
where
    W: FnOnce(&mut BufWriter<File>) -> Result<()>,
{
    let mut out = BufWriter::with_capacity(1 << 16, File::create(path)?);
    write(&mut out)?;
    out.flush()?;
    Ok(())
}
