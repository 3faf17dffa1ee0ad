// What the extension itself says, in the languages that locales/ has. A language without an entry gets English.

const STRINGS = {
  en: {
    thinking: "Thinking",
    intermediate: "Intermediate",
    reflection: "Reflection",
    output: "Output",
    outside: "Outside the parts",
    empty: "The trace appears here.",
    writing: "writing …",
    stopped: "stopped",
    wholePicture: "whole picture",
    local: "inside the mask",
    mended: "Mended",
    previous: "Previous picture",
    next: "Next picture",
    page: "%1 / %2",
    good: "Good: keep this edit as desired",
    bad: "Bad: keep this edit as non-desired",
    linked: "The verdict comes from a link",
    rows: "%1 rows: %2 good, %3 bad → output/%4",
    oneRow: "1 row: %2 good, %3 bad → output/%4",
    unwritten: "nothing new written",
  },
  de: {
    thinking: "Gedanken",
    intermediate: "Erster Vorschlag",
    reflection: "Prüfung",
    output: "Ergebnis",
    outside: "Außerhalb der Teile",
    empty: "Hier erscheint die Begründung.",
    writing: "schreibt …",
    stopped: "abgebrochen",
    wholePicture: "ganzes Bild",
    local: "innerhalb der Maske",
    mended: "Ausgebessert",
    previous: "Voriges Bild",
    next: "Nächstes Bild",
    page: "%1 / %2",
    good: "Gut: als erwünscht aufnehmen",
    bad: "Schlecht: als unerwünscht aufnehmen",
    linked: "Das Urteil kommt über eine Verbindung",
    rows: "%1 Zeilen: %2 gut, %3 schlecht → output/%4",
    oneRow: "1 Zeile: %2 gut, %3 schlecht → output/%4",
    unwritten: "nichts Neues geschrieben",
  },
}

/** t(key, ...values) for a locale such as "de" or "de-AT". */
export function translator(locale) {
  const words = STRINGS[String(locale ?? "").slice(0, 2).toLowerCase()] ?? STRINGS.en
  return (key, ...values) => (words[key] ?? STRINGS.en[key]).replace(/%(\d)/g, (_, at) => String(values[at - 1]))
}
