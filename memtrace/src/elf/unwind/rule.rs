//! From DWARF's rules for one instruction to the unwinder's.

use gimli::{
    CfaRule, Encoding, EndianSlice, LittleEndian, Operation, Reader, Register, RegisterRule,
    UnwindExpression, UnwindSection, UnwindTableRow,
};
use memtrace_common::unwind::{Rule, cfa, rbp, signal};

const RBP: Register = Register(6);
const RSP: Register = Register(7);
const RIP: Register = Register(16);

/// Call frame information is always for addresses of 8 bytes here, and its expressions don't use
/// the features that the other fields are about.
const ENCODING: Encoding = Encoding { format: gimli::Format::Dwarf32, version: 4, address_size: 8 };

type Bytes<'data> = EndianSlice<'data, LittleEndian>;

/// The rule of a row. `return_address` is the column that stands for it.
pub fn convert<'data, S>(row: &UnwindTableRow<usize>, section: &S, return_address: Register) -> Rule
where
    S: UnwindSection<Bytes<'data>>,
{
    if let Some(RegisterRule::Undefined) = row.register(return_address) {
        return Rule::OUTERMOST;
    }
    let Some(cfa) = cfa_of(row, section) else { return Rule::UNSUPPORTED };
    match row.register(return_address) {
        Some(RegisterRule::Offset(-8)) => {}
        Some(RegisterRule::Expression(at)) => return signal_frame(row, section, cfa, &at),
        _ => return Rule::UNSUPPORTED,
    }
    let (rbp, rbp_offset) = rbp_of(row, section, cfa);
    Rule { rbp, rbp_offset, ..cfa }
}

/// The CFA's half of the rule.
fn cfa_of<'data, S>(row: &UnwindTableRow<usize>, section: &S) -> Option<Rule>
where
    S: UnwindSection<Bytes<'data>>,
{
    let (kind, offset) = match row.cfa() {
        CfaRule::RegisterAndOffset { register: RSP, offset } => (cfa::RSP, *offset),
        CfaRule::RegisterAndOffset { register: RBP, offset } => (cfa::RBP, *offset),
        CfaRule::RegisterAndOffset { .. } => return None,
        CfaRule::Expression(expression) => match Shape::of(expression, section) {
            Shape::Register(RSP, offset) => (cfa::RSP, offset),
            Shape::Register(RBP, offset) => (cfa::RBP, offset),
            Shape::Load(RSP, offset) => (cfa::AT_RSP, offset),
            Shape::Load(RBP, offset) => (cfa::AT_RBP, offset),
            Shape::Plt(from) => (cfa::PLT, from),
            _ => return None,
        },
    };
    Some(Rule { cfa_offset: offset.try_into().ok()?, cfa: kind, ..Rule::NONE })
}

fn rbp_of<'data, S>(row: &UnwindTableRow<usize>, section: &S, cfa: Rule) -> (u8, i16)
where
    S: UnwindSection<Bytes<'data>>,
{
    let at = |kind, offset: i64| match offset.try_into() {
        Ok(offset) => (kind, offset),
        Err(_) => (rbp::UNKNOWN, 0),
    };
    match row.register(RBP) {
        None | Some(RegisterRule::SameValue | RegisterRule::Register(RBP)) => (rbp::SAME, 0),
        Some(RegisterRule::Offset(offset)) => at(rbp::AT_CFA, offset),
        Some(RegisterRule::Expression(expression)) => match Shape::of(&expression, section) {
            Shape::Register(RBP, offset) => at(rbp::AT_RBP, offset),
            Shape::Register(RSP, offset) if cfa.cfa == cfa::RSP => {
                at(rbp::AT_CFA, offset.wrapping_sub(cfa.cfa_offset.into()))
            }
            _ => (rbp::UNKNOWN, 0),
        },
        _ => (rbp::UNKNOWN, 0),
    }
}

/// The C library's description of the trampoline that ends signal handlers: all registers are at
/// fixed distances from `rsp`, where the kernel put them.
fn signal_frame<'data, S>(
    row: &UnwindTableRow<usize>,
    section: &S,
    cfa: Rule,
    return_address: &UnwindExpression<usize>,
) -> Rule
where
    S: UnwindSection<Bytes<'data>>,
{
    let from_rsp = |offset: u64| Shape::Register(RSP, offset as i64);
    let rbp_there = matches!(row.register(RBP), Some(RegisterRule::Expression(at))
        if Shape::of(&at, section) == from_rsp(signal::RBP));
    if cfa.cfa == cfa::AT_RSP
        && cfa.cfa_offset as u64 == signal::RSP
        && Shape::of(return_address, section) == from_rsp(signal::RIP)
        && rbp_there
    {
        Rule::SIGNAL
    } else {
        Rule::UNSUPPORTED
    }
}

/// The expressions that occur.
#[derive(Debug, PartialEq, Eq)]
enum Shape {
    /// Register plus constant.
    Register(Register, i64),
    /// The word at register plus constant.
    Load(Register, i64),
    /// `rsp + 8 + (((rip & 15) >= N) << 3)`: a procedure linkage table.
    Plt(i64),
    Other,
}

impl Shape {
    fn of<'data, S>(expression: &UnwindExpression<usize>, section: &S) -> Self
    where
        S: UnwindSection<Bytes<'data>>,
    {
        let Ok(expression) = expression.get(section) else { return Self::Other };
        let mut operations = expression.operations(ENCODING);
        // The longest shape has 8; one more tells a longer one.
        let mut found: [Option<Step>; 9] = [const { None }; 9];
        for slot in &mut found {
            match operations.next() {
                Ok(Some(operation)) => *slot = Some(Step::of(operation)),
                Ok(None) => break,
                Err(_) => return Self::Other,
            }
        }
        use Step::{And, Constant, GreaterEqual, Load, Plus, ShiftLeft};
        match found {
            [Some(Step::Register(register, offset)), None, ..] => Self::Register(register, offset),
            [Some(Step::Register(register, offset)), Some(Load), None, ..] => {
                Self::Load(register, offset)
            }
            [
                Some(Step::Register(RSP, 8)),
                Some(Step::Register(RIP, 0)),
                Some(Constant(15)),
                Some(And),
                Some(Constant(from @ 0..=15)),
                Some(GreaterEqual),
                Some(Constant(3)),
                Some(ShiftLeft),
                // Plus, and nothing behind it:
                Some(Plus),
            ] if matches!(operations.next(), Ok(None)) => Self::Plt(from as i64),
            _ => Self::Other,
        }
    }
}

#[derive(Debug)]
enum Step {
    Register(Register, i64),
    Constant(u64),
    Load,
    And,
    GreaterEqual,
    ShiftLeft,
    Plus,
    Other,
}

impl Step {
    fn of<R: Reader>(operation: Operation<R>) -> Self {
        match operation {
            Operation::RegisterOffset { register, offset, .. } => Self::Register(register, offset),
            Operation::UnsignedConstant { value } => Self::Constant(value),
            Operation::Deref { size: 8, space: false, .. } => Self::Load,
            Operation::And => Self::And,
            Operation::Ge => Self::GreaterEqual,
            Operation::Shl => Self::ShiftLeft,
            Operation::Plus => Self::Plus,
            _ => Self::Other,
        }
    }
}
