//! What the user takes into account, and what he wants to be sure of.

use clap::{Args, ValueEnum};

use crate::{
    plan::LeftClass,
    report::verdict::{Requirement, Terms},
    tree::UnseenClass,
};

/// A class of what was not looked at, or of what is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Class {
    /// Not looked at: it cannot be read
    Damaged,
    /// Not looked at: its contents lie in another file or place
    Elsewhere,
    /// Not looked at: it is encrypted
    Encrypted,
    /// Not looked at: it is compressed or archived
    Packed,
    /// Not looked at: it is an image of its own
    Nested,
    /// Not looked at: its format is not read
    Unsupported,
    /// Not looked at: it lies behind the end of the image file
    #[value(name = "out_of_file")]
    OutOfFile,
    /// Not looked at, though it could be searched
    Unsearched,
    /// Left: in files that are alive
    Live,
    /// Left: in journals and transaction logs
    Journal,
    /// Left: in shadow copies, page and hibernation files
    Store,
    /// Left: where no file and no structure refers to
    Unreferenced,
    /// What a rule only reports
    Reported,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Wanted {
    /// Every Windows was prepared with Sysprep
    Generalized,
    /// No Windows belongs to a domain
    Workgroup,
    /// Every byte was searched and nothing was found
    NoTraces,
    /// Nothing was passed over
    AllRead,
}

/// Options of every verb that ends with a verdict.
#[derive(Debug, Args)]
pub(super) struct Accepted {
    /// Classes that do not change the verdict: you take them into account. The report names them
    #[arg(long, value_enum, value_name = "CLASS,...", value_delimiter = ',')]
    accept: Vec<Class>,
    /// An image without Windows is no mistake: it is a disk that holds data
    #[arg(long)]
    allow_no_windows: bool,
}

/// What an image must be (`scan`, `verify`).
#[derive(Debug, Args)]
pub(super) struct Required {
    /// Exit 1, with what is missing, unless all of these are so
    #[arg(long, value_enum, value_name = "WHAT,...", value_delimiter = ',')]
    require: Vec<Wanted>,
}

impl Accepted {
    pub(super) fn terms(&self) -> Terms {
        let mut terms = Terms {
            no_windows: self.allow_no_windows,
            ..Terms::default()
        };
        for class in &self.accept {
            match class {
                Class::Damaged => terms.unseen.push(UnseenClass::Damaged),
                Class::Elsewhere => terms.unseen.push(UnseenClass::Elsewhere),
                Class::Encrypted => terms.unseen.push(UnseenClass::Encrypted),
                Class::Packed => terms.unseen.push(UnseenClass::Packed),
                Class::Nested => terms.unseen.push(UnseenClass::Nested),
                Class::Unsupported => terms.unseen.push(UnseenClass::Unsupported),
                Class::OutOfFile => terms.unseen.push(UnseenClass::OutOfFile),
                Class::Unsearched => terms.unseen.push(UnseenClass::Unsearched),
                Class::Live => terms.left.push(LeftClass::Live),
                Class::Journal => terms.left.push(LeftClass::Journal),
                Class::Store => terms.left.push(LeftClass::Store),
                Class::Unreferenced => terms.left.push(LeftClass::Unreferenced),
                Class::Reported => terms.left.push(LeftClass::Reported),
            }
        }
        terms
    }
}

impl Required {
    /// With what is accepted.
    pub(super) fn terms(&self, accepted: &Accepted) -> Terms {
        let require = self.require.iter().map(|wanted| match wanted {
            Wanted::Generalized => Requirement::Generalized,
            Wanted::Workgroup => Requirement::Workgroup,
            Wanted::NoTraces => Requirement::NoTraces,
            Wanted::AllRead => Requirement::AllRead,
        });
        Terms {
            require: require.collect(),
            ..accepted.terms()
        }
    }
}
