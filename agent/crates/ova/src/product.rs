//! What an appliance says of itself and asks of whoever deploys it: product, licence, properties. Pure.
use crate::xml::{escaped, escaped_lines, line};

/// How a property is asked for and checked by vSphere's client (OVF 1.1, 9.5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PropertyKind {
    /// Text of at most so many characters; 65535 is what vSphere takes.
    Text(u16),
    /// Text that vSphere's client does not show.
    Password,
    /// 0 to 65535.
    Number,
}

/// One question.
#[derive(Debug, Clone, Copy)]
pub struct Property {
    /// Without the class before it.
    pub key: &'static str,
    pub kind: PropertyKind,
    /// What it is when nobody says anything.
    pub default: &'static str,
    /// Group in vSphere's client.
    pub category: &'static str,
    pub label: &'static str,
    pub description: &'static str,
}

/// The product section.
#[derive(Debug, Clone)]
pub struct Product<'a> {
    /// First part of every key that the guest sees.
    pub class: &'a str,
    pub name: &'a str,
    pub vendor: &'a str,
    pub version: &'a str,
    pub properties: &'a [Property],
    pub license: &'a str,
    pub annotation: &'a str,
}

pub(crate) fn sections(text: &mut String, product: &Product<'_>) {
    line(text, 2, "<EulaSection>");
    line(text, 3, "<Info>The licence</Info>");
    line(text, 3, &format!("<License>{}</License>", escaped_lines(product.license)));
    line(text, 2, "</EulaSection>");
    line(text, 2, "<AnnotationSection ovf:required=\"false\">");
    line(text, 3, "<Info>Notes of the virtual machine</Info>");
    line(text, 3, &format!("<Annotation>{}</Annotation>", escaped_lines(product.annotation)));
    line(text, 2, "</AnnotationSection>");
    line(text, 2, &format!("<ProductSection ovf:class=\"{}\" ovf:required=\"false\">", escaped(product.class)));
    line(text, 3, "<Info>The product and what it has to be told</Info>");
    line(text, 3, &format!("<Product>{}</Product>", escaped(product.name)));
    line(text, 3, &format!("<Vendor>{}</Vendor>", escaped(product.vendor)));
    line(text, 3, &format!("<Version>{}</Version>", escaped(product.version)));
    line(text, 3, &format!("<FullVersion>{}</FullVersion>", escaped(product.version)));
    let mut category = "";
    for property in product.properties {
        if property.category != category {
            category = property.category;
            line(text, 3, &format!("<Category>{}</Category>", escaped(category)));
        }
        ask(text, property);
    }
    line(text, 2, "</ProductSection>");
}

fn ask(text: &mut String, property: &Property) {
    let (kind, more) = match property.kind {
        PropertyKind::Text(most) => ("string", format!(" ovf:qualifiers=\"MaxLen({most})\"")),
        PropertyKind::Password => ("string", " ovf:password=\"true\"".to_owned()),
        PropertyKind::Number => ("uint16", String::new()),
    };
    let (key, value) = (escaped(property.key), escaped(property.default));
    line(
        text,
        3,
        &format!(
            "<Property ovf:key=\"{key}\" ovf:type=\"{kind}\"{more} ovf:userConfigurable=\"true\" ovf:value=\"{value}\">"
        ),
    );
    line(text, 4, &format!("<Label>{}</Label>", escaped(property.label)));
    line(text, 4, &format!("<Description>{}</Description>", escaped(property.description)));
    line(text, 3, "</Property>");
}
