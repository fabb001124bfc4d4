//! Who the machine is, and whether it was generalized.

use super::tag::Html;
use crate::report::ImageReport;

/// One card an installation.
pub(super) fn write(_h: &mut Html<'_>, _report: &ImageReport) {}
