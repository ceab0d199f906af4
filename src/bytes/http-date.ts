/**
 * HTTP's dates (RFC 9110 §5.6.7), all three forms, always GMT. Pure.
 *
 * Not Date.parse: that takes "soon 5" for a day in May 2001, and the asctime form for local time.
 */

const MONTHS = ['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec']

/** `Sun, 06 Nov 1994 08:49:37 GMT`: the only form that is written today. */
const IMF_FIXDATE = /^\w{3}, (\d{2}) (\w{3}) (\d{4}) (\d{2}):(\d{2}):(\d{2}) GMT$/i
/** `Sunday, 06-Nov-94 08:49:37 GMT` */
const RFC_850 = /^\w{6,9}, (\d{2})-(\w{3})-(\d{2}) (\d{2}):(\d{2}):(\d{2}) GMT$/i
/** `Sun Nov  6 08:49:37 1994` */
const ASCTIME = /^\w{3} (\w{3}) ([ \d]\d) (\d{2}):(\d{2}):(\d{2}) (\d{4})$/i

/** ms since the epoch; undefined for what is no HTTP date. */
export function parseHttpDate(field: string | undefined, nowMs: number = Date.now()): number | undefined {
  const text = field?.trim() ?? ''
  const fixed = IMF_FIXDATE.exec(text)
  if (fixed !== null) return utc(fixed[3]!, fixed[2]!, fixed.slice(1, 2), fixed.slice(4))
  const old = RFC_850.exec(text)
  if (old !== null) return utc(century(Number(old[3]), nowMs), old[2]!, old.slice(1, 2), old.slice(4))
  const asctime = ASCTIME.exec(text)
  return asctime === null ? undefined : utc(asctime[6]!, asctime[1]!, asctime.slice(2, 3), asctime.slice(3, 6))
}

function utc(year: string | number, month: string, [day]: readonly string[], time: readonly string[]): number | undefined {
  const monthIndex = MONTHS.indexOf(month.toLowerCase())
  const [hours, minutes, seconds] = time.map(Number) as [number, number, number]
  if (monthIndex < 0 || hours > 23 || minutes > 59 || seconds > 60) return undefined
  const date = new Date(0)
  date.setUTCFullYear(Number(year), monthIndex, Number(day))
  // A day that the month does not have has moved into the next one.
  if (date.getUTCDate() !== Number(day) || date.getUTCMonth() !== monthIndex) return undefined
  return date.setUTCHours(hours, minutes, seconds, 0)
}

/** RFC 9110: what seems more than 50 years in the future is the last year that ended with these digits. */
function century(twoDigits: number, nowMs: number): number {
  const thisYear = new Date(nowMs).getUTCFullYear()
  const year = thisYear - (thisYear % 100) + twoDigits
  return year > thisYear + 50 ? year - 100 : year
}
