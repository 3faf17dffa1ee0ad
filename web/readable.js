// A part of a trace as a reader sees it.

const APART = / [,;.:](?= |\n|$)/ // the bundled models set marks apart from words; prose does not

/**
 * The bundled models note behind a word whether a reference shows it ("=") or the prompt names it ("*"): marks for the
 * model, not for the reader. They go, and the words become sentences. Other models' prose stays as it is.
 */
export function readable(text) {
  if (!text || !APART.test(text)) return text ?? ""
  return text
    .replace(/ [=*](?=\s|$)/g, "")
    .replace(/\s+([,;.:])(?=\s|$)/g, "$1")
    .replace(/(^|[.\n]\s*)(\p{Ll})/gu, (_, before, letter) => before + letter.toUpperCase())
}
